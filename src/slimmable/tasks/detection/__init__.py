"""Objects in images: where they come from, how they are fed, and how found boxes, masks and keypoints are judged."""
