"""Reading and writing of image files. Headers are checked before any voxel is read, and voxels must be complete."""
