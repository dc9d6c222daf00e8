"""From a recipe and labelled datasets to a trained policy and critic."""
