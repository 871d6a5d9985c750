"""The hook that puts the compiled kernels into a wheel, or beside the sources of an editable install.

Why a hook of our own: it needs a C compiler and nothing else, and goes on without one.  The plugin for hatchling that
scikit-build-core has (looked at in 1.1.2) refuses wheels without a library; its own backend can fall back to one, but would
take hatchling's place, and fetches CMake wherever that is not installed.
"""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """With a library the wheel is for this platform, and for any Python; without, for any platform, too."""
        spec = spec_from_file_location("build", Path(self.root, "src/sanact/kernels/build.py"))
        assert spec is not None and spec.loader is not None
        build = module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            build.compile_library()
        except build.NoLibrary as why:
            self.app.display_warning(f"sanact is installed without compiled kernels, and will use plain torch: {why}")
            return
        build_data["artifacts"].append(str(build.LIBRARY.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(platform_tags())}"
