"""Export formats, one file each; `registry` lists them. Free of torch until a model is written."""
