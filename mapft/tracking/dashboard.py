"""The W&B workspace of a project, in the order of the report; then PPO statistics, time and memory."""

import os
from pathlib import Path
from typing import Any

from mapft.config import Config
from mapft.tracking.glossary import EPISODES
from mapft.utils.errors import UserError
from mapft.utils.files import write_text

DASHBOARD = "dashboard.json"

TOTALS = {  # of all values; open, like levels and lambda before them
    "Price": {"KL against the least that has the targets (nats)": ["objective/kl", "objective/kl_least"]},
    "Convergence": {
        "KL to p_lam (nats)": ["objective/kl_to_target"],
        "Effective sample share of the rollout": ["objective/ess"],
    },
    "Samples": {},
}
DETAILS = {
    "PPO": {
        "Reward and PPO objective": ["objective/scores", "objective/rlhf_reward"],
        "Variance of the ratio": ["val/ratio_var"],
        "Clip fraction of policy and critic": ["policy/clipfrac_avg", "val/clipfrac_avg"],
        "Explained variance of the critic": ["critic/explained_variance"],
        "Losses": ["loss/policy_avg", "loss/value_avg"],
        "Entropy": ["objective/entropy"],
        "Gradient norm": ["grad_norm"],
        "Learning rate": ["learning_rate"],
    },
    "Responses": {
        "Length (tokens)": ["completions/min_length", "completions/mean_length", "completions/max_length"],
        "Truncated at the length limit": ["completions/clipped_ratio"],
    },
    "Time and memory": {
        "Parts of a rollout (seconds)": [f"timing/{part}" for part in ("generation", "log_probs", "rewards", "critic")],
        "Update (seconds)": ["timing/update"],
        "Memory (GB)": ["memory/peak_gb", "memory/reward_models_gb"],
    },
}


def charts(values: list[str]) -> dict[str, dict[str, list[str]]]:
    """{section: {chart: metrics}} in the order of the report; the axis of all charts is episodes.

    For each value a chart of its level with a 95 % interval against the target, and one of lambda with its interval.
    """
    levels, lam = {}, {}
    for value in values:
        band = [f"map/scores_low/{value}", f"map/scores_high/{value}"]
        levels[f"{value}: level, 95 % interval, target"] = [f"map/scores/{value}", *band, f"map/target/{value}"]
        lam[f"{value}: lambda, 95 % interval"] = [f"map/lam{end}/{value}" for end in ("", "_low", "_high")]
    return {"Levels": levels, "Lambda": lam} | TOTALS | DETAILS


def save_dashboard(config: Config) -> str:
    """Write {output}/dashboard.json, the W&B workspace, and push it unless W&B is offline; returns a sentence.

    Raises UserError where wandb-workspaces is not installed.
    """
    try:
        workspace = _workspace(config)
    except ImportError as error:
        raise UserError(
            "mapft dashboard needs wandb-workspaces, which is not installed; run pip install 'mapft[dashboard]'."
        ) from error
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
    for section, metrics_of in charts(list(config.rewards)).items():
        plots: list[Any] = [panels.LinePlot(title=title, x=EPISODES, y=[*y]) for title, y in metrics_of.items()]
        if section == "Samples":
            plots.append(panels.WeavePanelSummaryTable(table_name="completions"))
        sections.append(workspaces.Section(name=section, panels=plots, is_open=section not in DETAILS))
    return workspaces.Workspace(
        entity=config.tracking.entity or "", project=config.tracking.project, name="mapft", sections=sections
    )
