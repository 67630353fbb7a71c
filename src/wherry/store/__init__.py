"""What must last: metadata database, content, snapshots, leases, images, and garbage collection."""
