"""Commands about web applications: quota serve, quota routes."""
