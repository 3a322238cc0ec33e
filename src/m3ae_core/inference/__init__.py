"""From a case with any subset of its sequences to labels on its own grid."""
