"""Changes that make recipes of detection and segmentation ones of a few seconds, and objects that tell of nothing."""

SIZE = (
    "task.network.size={width: 0.25, neck: 16, head: 32, head_layers: 1, anchor: 8, proposals: 40, samples: 16}",
    "task.data.size=64",
    "task.data.batch_size=4",
)
TINY = (*SIZE, "task.data.train_images=8", "task.data.test_images=6", "train.epochs=1")
"""Changes of detection/smoke, instance-segmentation/smoke and keypoints/smoke."""

TINY_MAPS = (
    "task.network={name: fcn, backbone: resnet10, width: 0.25}",
    "task.data={size: 64, crop: 64, batch_size: 4, train_images: 8, test_images: 4}",
    "calibration.samples=8",
    "train.epochs=1",
)
"""Changes of segmentation/smoke."""
