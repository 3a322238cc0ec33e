"""The words of file names, by what they say: lower-case, without accents, in the languages that people use.

Extend recognition here; :mod:`m3ae_core.io.folders.recognition` holds the rules.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Spellings of sequences beside those of the modality set, which count first.
SEQUENCES = {
    "ct1": "T1c",
    "cet1": "T1c",
    "cet1w": "T1c",
    "gdt1": "T1c",
    "t1km": "T1c",
    "t1wi": "T1",
    "t2wi": "T2",
    "darkfluid": "FLAIR",
    "dafl": "FLAIR",
    "tirm": "FLAIR",
    "mprage": "T1",
    "spgr": "T1",
    "fspgr": "T1",
    "bravo": "T1",
}
#: Words that say FLAIR even beside T2, whatever stands between.
DARK_FLUID = _words("darkfluid dafl tirm")
#: Techniques that imply T1; beside a T1 or T1c they say nothing new.
T1_TECHNIQUES = _words("mprage spgr fspgr bravo")

#: A contrast agent was given.
CONTRAST = _words(
    "contrast contrasted contrastado contraste contrasto kontrast kontrastmittel km ce gd gad gado gadolinium "
    "gadolinio dotarem gadovist magnevist multihance omniscan prohance clariscan gadavist primovist gadobutrol "
    "gadoterate injection injected injecte inj enhanced enhancement mdc agent cm postcontrast postgad postgd "
    "postgado postkm dtpa iv gbca vueway gadopiclenol"
)
#: Words that start like this mean contrast too, in whatever case or language.
CONTRAST_STEMS = ("kontr", "contr", "gado", "enh", "injec", "injek")
#: No contrast agent was given.
NATIVE = _words(
    "pre native nativ nativo natif plain unenhanced nonenhanced noncontrast precontrast nocontrast nonce pregad"
)
#: Followed by a word of contrast: none was given.
WITHOUT = _words(
    "pre non no not sans ohne without wo vor avant before sin senza kein keine zonder bez utan uten prior un"
)
#: Preceding a word of contrast they only confirm it; alone beside T1 they leave the question open.
WITH = _words("nach after apres dopo despues mit with avec con w")
#: Alone beside T1 they leave the question open.
OPEN = _words("nach after apres dopo despues vor avant before without sans ohne avec mit")
#: With one of these behind them, pre and post refer to treatment.
TREATMENT = _words(
    "op operation operative surgery surgical treatment therapy rt crt chemo radiation resection biopsy processed "
    "processing proc"
)

#: What follows is what the image was registered to.
REGISTERED_TO = _words(
    "to onto in on reg registered registration coreg coregistered aligned auf sur registriert recale nach"
)

#: Not an image of one of the sequences, though computed from one or named like one.
NOT_OURS = _words(
    "map maps mapping star subtraction subtracted subtract minus diff difference delta perf perfusion dsc dce dyn "
    "dynamic asl dwi dti adc trace fa md cbv rcbv cbf rcbf mtt ttp tmax ktrans bold fmri epi swi swan qsm phase pd "
    "pdw proton mra mrv tof angio stir rho t1rho t2s t2star relaxometry r1 r2 prob probs probability probabilities "
    "softmax uncertainty lesion lesions warp warpfield jacobian deformation displacement field fieldmap transform "
    "mip scout localizer localiser loc ct pet spect mrs csi elastography mtr haste hemo haemo residual "
    "b0 b1000 div over spectro spectroscopy hyperintensity wmh error "
    "rmse noise ratio brainmask synthetic synth pred prediction reconstruction"
)
#: Gradient echo: with T2 it is T2*.
GRADIENT_ECHO = _words("gre ffe medic fl2d fl3d")
#: Beside a sequence they leave open whether it is another one.
OPEN_TECHNIQUES = {"T1": _words("gre ffe medic"), "T1c": _words("gre ffe medic"), "T2": _words("ir df")}

#: A label map.
LABELS = _words("seg segm dseg segmentation label labels mask")
#: With a word for labels: of something else than the tumour.
NOT_TUMOUR = _words(
    "brain bet hdbet skull skullstrip head tissue tissues aseg aparc parcellation parenchyma csf wm gm ventricle "
    "ventricles hemisphere synthseg synthstrip fov robex"
)
#: With a word for labels: of the tumour after all.
TUMOUR = _words(
    "tumor tumour tumeur lesion lesions glioma gbm gtv et wt tc ncr ed edema oedema enhancing necrosis"
)
#: Never labels, whatever else is said.
NEVER_LABELS = _words("prob probs probability probabilities softmax uncertainty warp")

#: Says how an image was acquired or prepared, not what it is.
NEUTRAL = _words(
    "ax axial sag sagittal cor coronal tra trans transversal iso 2d 3d mpr se tse fse fs fatsat spc space cube vista "
    "tfe vibe tfl brain stripped unstripped skullstripped ss bet hdbet bias biascorr n4 corrected norm normalised "
    "normalized registered aligned coregistered resampled rigid affine mni sri sri24 template std raw orig defaced "
    "mr mri image img scan w weighted and with"
)
#: Behind a sequence these, as whole words, say nothing against it.
HARMLESS = _words(
    "warped preproc preprocessed cropped final clean high low res hires highres mm tr ns fl fast flash dixon thin nii "
    "nifti native anat vol volume ses run acq of the series blade propeller stealth nav study patient case ir "
    "control controls preop postop intraop pretreatment posttreatment presurgery postsurgery"
)
#: One of two files of a sequence that has such a word more than the other gives way to it.
VARIANTS = _words("bias biascorr biascorrected n4")

#: Spellings that are rewritten before a name is split into words: a pattern, and what takes its place.
REWRITTEN = (
    (r"(?<![a-z0-9])c\+|\+\s*c(?![a-z])|\+(?=[^a-z]*\Z)", "_contrast_"),
    (r"t2\s*\*", "t2star"),
    (r"dark[-_ .]?fluid", "darkfluid"),
    (r"da[-_ .]fl(?![a-z])", "dafl"),
    (r"bez[-_ ]*контраст\w*|без[-_ ]*контраст\w*|平扫|単純|单纯", "_native_"),
    (r"контраст\w*|增强|造影", "_contrast_"),
    (r"t1[-_ ]rho", "t1rho"),
)
