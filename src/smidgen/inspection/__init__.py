"""What a collection holds before anything is fitted: copies, outliers, poor images, and what a fit would refuse."""
