"""Models and data as users hand them over: files, pictures, folders."""
