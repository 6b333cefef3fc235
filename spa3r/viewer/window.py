"""The viewer as a whole: the page with its panel, and the facts of the scene in it."""

import html
import threading
from typing import Any, Final

from spa3r.errors import ConfigError
from spa3r.latent import SceneLatent
from spa3r.licences import licence_of_teacher
from spa3r.loopback import HOST, page_url
from spa3r.trajectories import TRAJECTORIES
from spa3r.viewer.cameras import Stage
from spa3r.viewer.cloud import CloudPanel
from spa3r.viewer.field import FieldPanel
from spa3r.viewer.server import serve, stop
from spa3r.viewer.worker import Worker

PORT: Final = 8080
_PANEL: Final = 340  # pixels that the panel is wide
_NAMING: Final = ("kind", "uri", "variant", "hash")  # of a teacher's reference
NEEDS_ENCODER: Final = "Features and predicted depth need the encoder: spa3r view --encoder ..."


class Viewer:
    """Shows a scene until it is closed or the process ends; any number of browsers may look.

    Args:
        scene: with its encoder attached for features and predicted depth, else points and cameras.
        host: address to listen on. Whoever reaches it sees the scene: there is no password.
        trajectory: name in TRAJECTORIES to start with.

    Raises:
        ConfigError: an unknown trajectory or an impossible port.
        ServiceError: the address cannot be listened on; a free port is named.
    """

    def __init__(
        self,
        scene: SceneLatent,
        *,
        host: str = HOST,
        port: int = PORT,
        trajectory: str = "orbit",
    ) -> None:
        if trajectory not in TRAJECTORIES:
            raise ConfigError(
                f"unknown trajectory {trajectory!r}; choose {', '.join(TRAJECTORIES)}"
            )
        self.scene = scene
        kinds = () if scene.encoder is None else scene.query(0).kinds
        self.server = serve(host, port)
        self.url = page_url(host, port)
        self._closed = threading.Event()
        gui = self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True)
        gui.main_panel.dock_right()
        gui.main_panel.set_width(_PANEL)
        gui.set_panel_label("Spa3R scene")
        self.server.scene.configure_environment_map(hdri=None)
        self._errors = gui.add_html("", visible=False)
        self.worker = Worker(self._show_errors)
        stage = Stage(self.server, scene)
        with gui.add_folder("Points"):
            self.cloud = CloudPanel(self.server, scene, self.worker, kinds)
        self.field: FieldPanel | None = None
        if kinds:
            with gui.add_folder("Field"):
                self.field = FieldPanel(stage, scene, self.worker, kinds, trajectory)
        else:
            gui.add_html(f'<div style="padding: 0.5em 1em">{html.escape(NEEDS_ENCODER)}</div>')
        with gui.add_folder("Scene", expand_by_default=not kinds):
            gui.add_html(_table(facts(scene)))

    def __repr__(self) -> str:
        return f"Viewer at {self.url}" + (" (closed)" if self._closed.is_set() else "")

    def wait(self) -> None:
        """Until `close` is called or Ctrl-C is pressed, which closes it."""
        try:
            self._closed.wait()
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Ends the server and frees its port; may be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self.field is not None:
            self.field.close()
        self.worker.close()
        stop(self.server)

    def _show_errors(self, errors: list[str]) -> None:
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in errors)
        self._errors.content = f'<div style="padding: 0.5em 1em; color: #ff8787">{lines}</div>'
        self._errors.visible = bool(errors)


def view(
    scene: SceneLatent,
    *,
    host: str = HOST,
    port: int = PORT,
    trajectory: str = "orbit",
) -> Viewer:
    """Opens a viewer and prints where it is. In a script: `view(scene).wait()`.

    Args and errors as of `Viewer`.
    """
    viewer = Viewer(scene, host=host, port=port, trajectory=trajectory)
    print(f"{viewer.url} shows the scene", flush=True)
    return viewer


# --- facts ----------------------------------------------------------------------------------------


def facts(scene: SceneLatent) -> dict[str, str]:
    """What is known of a scene, for people."""
    latents, width = scene.latents_LD.shape
    rows, columns = scene.grid_hw
    scale = scene.metres_per_unit
    teacher = _reference(scene)
    licence = licence_of_teacher(teacher)
    names = f" ({', '.join(scene.names[:3])}{', ...' * (len(scene.names) > 3)})"
    return {
        "Views": f"{scene.num_views}{names * bool(scene.names)}",
        "Patches": f"{rows} x {columns} of {scene.patch_size} pixels a view",
        "Latents": f"{latents} of width {width}",
        "Unit of length": f"{scale:.3f} m" if scale > 0 else "unknown (the scene's own)",
        "Encoder": str(scene.provenance.get("encoder_hash") or "unknown"),
        "Teacher": ", ".join(str(teacher[key]) for key in _NAMING if teacher.get(key)) or "unknown",
        "Licence": f"{licence.name}: {licence.note}",
    }


def _reference(scene: SceneLatent) -> dict[str, Any]:
    found = scene.provenance.get("teacher")
    return found if isinstance(found, dict) else {}


def _table(rows: dict[str, str]) -> str:
    """Two columns. Everything is escaped: a scene file may come from anybody."""
    cells = "".join(
        f'<tr><td style="padding-right: 1em; opacity: 0.7; vertical-align: top">{html.escape(key)}'
        f'</td><td style="overflow-wrap: anywhere">{html.escape(value)}</td></tr>'
        for key, value in rows.items()
    )
    return f'<table style="padding: 0 0.8em 0.6em; font-size: 0.85em">{cells}</table>'
