"""The systems that are compared, each as processes of its own."""
