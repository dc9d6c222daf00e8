"""What goes to the Hugging Face Hub, with which card, and how it gets there."""
