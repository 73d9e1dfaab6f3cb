"""Image files: headers that are checked before any voxel is read, and voxels that are complete."""
