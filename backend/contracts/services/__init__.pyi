"""What is built on the policies: durable jobs."""
