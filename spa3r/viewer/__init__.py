"""A scene in the browser: points, cameras, and what the field predicts along a trajectory.

from spa3r.viewer import view
view(scene)  # in a notebook; in a script view(scene).wait()
"""

from spa3r.extras import needed_for

with needed_for("the viewer", "view"):
    from spa3r.viewer.window import Viewer, view

__all__ = ["Viewer", "view"]
