"""The two twistd plugins: options and makeService."""
