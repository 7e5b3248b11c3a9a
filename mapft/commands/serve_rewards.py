"""Scores of this machine for policies on another (rewards of kind remote), until interrupted.

mapft serve-rewards [rewards=[...]] [host=...] [port=...] [model=...]
"""

import argparse
from typing import Any

from mapft.utils.errors import UserError

SETTINGS = ("rewards", "host", "port", "model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides of conf/serve.yaml."""
    parser.add_argument("overrides", nargs="*", metavar="name=value", help=f"settings: {', '.join(SETTINGS)}")
    parser.add_argument("--cfg", choices=("job",), help="print the composed settings and stop")


def main(arguments: argparse.Namespace) -> None:
    """Load the rewards and serve them."""
    from mapft.commands.composed import with_settings

    hydra = ["--cfg", arguments.cfg] if arguments.cfg else []
    with_settings("serve", [*hydra, *arguments.overrides], _serve)


def _serve(settings: Any) -> None:
    from omegaconf import OmegaConf

    from mapft.config.compose import unknown_setting
    from mapft.rewards import parse
    from mapft.rewards.server import RewardServer

    if unknown := [name for name in settings if name not in SETTINGS]:
        raise UserError(unknown_setting(unknown[0], SETTINGS))
    rewards: Any = OmegaConf.to_container(settings.get("rewards") or OmegaConf.create(), resolve=True)
    if not rewards:
        raise UserError("rewards is empty; name at least one, for example rewards=[helpful,harmless].")
    if not isinstance(settings.port, int) or not 0 <= settings.port < 2**16:
        raise UserError(f"port={settings.port} is invalid; give a number from 1 to 65535, or 0 for any free port.")
    with RewardServer(parse(rewards), str(settings.host), settings.port) as server:
        host, port = server.server_address[:2]
        print(f"Serving {', '.join(rewards)} at http://{host!s}:{port}/score/NAME", flush=True)
        server.serve_forever()
