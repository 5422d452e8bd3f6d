"""The networks: which there are, how one is built and where its weights come from."""
