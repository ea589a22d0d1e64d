"""What tests need: of workflows, and of back ends of storage. Nothing of it is imported by the rest of romancy."""
