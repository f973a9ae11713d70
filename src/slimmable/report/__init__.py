"""Pictures from what was measured; nothing here touches a model."""
