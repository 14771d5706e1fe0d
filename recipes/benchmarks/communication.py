"""Bytes that DDP communicates in a step, and bytes of a checkpoint, by vertices and backbone.

    torchrun --standalone --nproc_per_node 2 recipes/benchmarks/communication.py

Takes one SPRO step with SimplexTrainer in each process, under DDP on the CPU, with random timm backbones. Counts the
gradient buckets of DDP's communication hook, the buffers (BatchNorm statistics) that DDP broadcasts in a forward pass,
and the files of the checkpoint. Writes `recipes/results/communication.json`.
"""

import json
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils.data import Dataset
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, TrainerCallback

from hf_simplex import SimplexForImageClassification, SimplexTrainer, SimplexTrainingArguments

RESULTS = Path(__file__).parents[1] / "results" / "communication.json"
BACKBONES = {"mobilenetv3_small_050": 64, "resnet18": 64, "resnet50": 64, "vit_small_patch16_224": 224}
VERTICES = (2, 4, 8)
LABELS = 10


class Noise(Dataset):
    """Random images, two for each of two processes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": torch.randn(3, self.size, self.size), "labels": index}


class Count(TrainerCallback):
    """Counts the bytes of the gradient buckets of a stage."""

    def __init__(self, trainer: SimplexTrainer) -> None:
        self.trainer, self.bytes = trainer, 0

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        wrapped = self.trainer.model_wrapped
        assert isinstance(wrapped, nn.parallel.DistributedDataParallel), "start this with torchrun"
        wrapped.register_comm_hook(None, self.count)

    def count(self, _: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Count a bucket and all-reduce it as DDP does."""
        self.bytes += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]


def measure(architecture: str, size: int, vertices: int, directory: Path) -> dict[str, Any]:
    """Take one step with the last of `vertices` vertices."""
    settings = {"input_size": [3, size, size], "num_classes": LABELS}
    config = TimmWrapperConfig.from_dict(
        {"architecture": architecture, "num_classes": LABELS, "pretrained_cfg": settings}
    )
    torch.manual_seed(0)
    model = SimplexForImageClassification.from_backbone(TimmWrapperForImageClassification(config))
    for _ in range(vertices - 2):
        model.add_vertex()
    args = SimplexTrainingArguments(
        str(directory),
        max_steps=1,
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=1,
        batch_norm_images=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        volume_weight_scaling="none",
    )
    trainer = SimplexTrainer(model=model, args=args, train_dataset=Noise(size))
    count = Count(trainer)
    trainer.add_callback(count)
    trainer.grow_connector()
    checkpoint = directory / f"vertex-{vertices - 1:05d}" / "checkpoint-1"
    sizes = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
    backbone = model.backbone
    return {
        "backbone": architecture,
        "vertices": vertices,
        "backbone_bytes": sum(p.numel() * p.element_size() for p in backbone.parameters()),
        "all_reduced_bytes": count.bytes,
        "broadcast_buffer_bytes": sum(buffer.numel() * buffer.element_size() for buffer in backbone.buffers()),
        "checkpoint_weight_bytes": sizes["model.safetensors"],
        "checkpoint_optimizer_bytes": sizes["optimizer.pt"],
        "checkpoint_bytes": sum(sizes.values()),
        "all_vertices_bytes": sum(file.stat().st_size for file in directory.glob("vertex-*.safetensors")),
    }


def main() -> None:
    """Measure each backbone with each number of vertices."""
    rows = []
    for architecture, size in BACKBONES.items():
        for vertices in VERTICES:
            name = [mkdtemp(prefix="communication-") if int(os.environ.get("RANK", 0)) == 0 else ""]
            if not dist.is_initialized():
                dist.init_process_group("gloo")
            dist.broadcast_object_list(name)
            rows.append(measure(architecture, size, vertices, Path(name[0])))
            dist.barrier()
            if dist.get_rank() == 0:
                shutil.rmtree(name[0])
    if dist.get_rank() == 0:
        RESULTS.parent.mkdir(exist_ok=True)
        report = {"torch": torch.__version__, "processes": dist.get_world_size(), "rows": rows}
        RESULTS.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        print(pd.DataFrame(rows).to_string(index=False))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
