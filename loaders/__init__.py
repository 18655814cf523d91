"""What a replica needs before it can serve; runs inside replicas and on nodes."""
