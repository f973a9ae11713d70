"""Every pixel of an image named: where label maps come from, how they are fed, and how they are judged."""
