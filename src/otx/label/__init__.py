"""Label a pile of photos and mend a data set on a page of this machine."""
