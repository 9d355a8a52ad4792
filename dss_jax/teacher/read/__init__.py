"""How a completion becomes a rationale and a label, or a reason why not."""
