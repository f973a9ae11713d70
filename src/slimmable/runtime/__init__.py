"""From an artifact to a running network, without torch: reading, backends, and the width that meets a budget."""
