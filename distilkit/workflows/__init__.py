"""One verb a module: config in, result out."""
