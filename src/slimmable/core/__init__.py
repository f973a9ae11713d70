"""What is elastic: widths and spaces, the analysis of a network's graph, and the network that runs at any width."""
