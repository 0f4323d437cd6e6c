"""Out of the framework: networks as ordinary torch modules, as source, weights and ONNX.

``plain`` works in a process; ``python -m pathnas.export`` writes a folder that needs nothing of
pathnas.
"""

from pathnas.export.lowering import plain as plain
