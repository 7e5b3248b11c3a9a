"""The W&B page of a project as code: levels against targets, multipliers, KL, what PPO does, where time goes."""

import os
from pathlib import Path
from typing import Any

from mapft.config import Config
from mapft.errors import UserError
from mapft.glossary import EPISODES
from mapft.sampling.store import write_text

DASHBOARD = "dashboard.json"

SHARED = {
    "Cost": {
        "KL to the reference, nats": ["objective/kl"],
        "Reward and what PPO maximises": ["objective/scores", "objective/rlhf_reward"],
        "Effective share of the rollout": ["objective/ess"],
        "Entropy": ["objective/entropy"],
    },
    "PPO": {
        "Ratio's variance": ["val/ratio_var"],
        "Clipped share": ["policy/clipfrac_avg", "val/clipfrac_avg"],
        "Critic's explained variance": ["critic/explained_variance"],
        "Losses": ["loss/policy_avg", "loss/value_avg"],
        "Gradient norm": ["grad_norm"],
        "Learning rate": ["learning_rate"],
    },
    "Responses": {
        "Tokens": ["completions/min_length", "completions/mean_length", "completions/max_length"],
        "Cut at the cap": ["completions/clipped_ratio"],
    },
    "Machine": {
        "Seconds of a rollout's parts": [f"timing/{part}" for part in ("generation", "log_probs", "rewards", "critic")],
        "Seconds of an update": ["timing/update"],
        "Memory, GB": ["memory/peak_gb", "memory/reward_models_gb"],
    },
}


def charts(values: list[str]) -> dict[str, dict[str, list[str]]]:
    """Section -> chart -> metrics. One chart for each value's level and target; all are drawn against episodes."""
    levels = {f"{value}: level and target": [f"map/scores/{value}", f"map/target/{value}"] for value in values}
    return {"Levels": levels | {"Multipliers": [f"map/lam/{value}" for value in values]}} | SHARED


def save_dashboard(config: Config) -> str:
    """{output}/dashboard.json, the W&B workspace; pushed too where W&B is online. Returns what was done.

    Raises UserError where wandb-workspaces is not installed.
    """
    try:
        workspace = _workspace(config)
    except ImportError as error:
        raise UserError("mapft dashboard needs wandb-workspaces; pip install 'mapft[dashboard]'.") from error
    path = Path(config.output) / DASHBOARD
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, workspace._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2))
    if os.environ.get("WANDB_MODE", "online") != "online":
        return f"{path} (not pushed: WANDB_MODE={os.environ['WANDB_MODE']})"
    import wandb

    try:
        workspace.entity = config.tracking.entity or wandb.Api().default_entity
        workspace.save()
    except Exception as error:
        return f"{path} (not pushed: {error})"
    return f"{path}, pushed to {workspace.url}"


def _workspace(config: Config) -> Any:
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as workspaces

    sections = []
    for section, drawn in charts(list(config.rewards)).items():
        lines: list[Any] = [panels.LinePlot(title=title, x=EPISODES, y=[*metrics]) for title, metrics in drawn.items()]
        if section == "Responses":
            lines.append(panels.WeavePanelSummaryTable(table_name="completions"))
        sections.append(workspaces.Section(name=section, panels=lines, is_open=section in ("Levels", "Cost")))
    return workspaces.Workspace(
        entity=config.tracking.entity or "", project=config.tracking.project, name="mapft", sections=sections
    )
