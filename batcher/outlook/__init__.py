"""What a plan foresees besides what happens to each job: its price, its duration, trouble with media."""
