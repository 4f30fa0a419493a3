"""Scripts that measure distilkit beside other tools: same machine, same data, same model, same run."""
