#!/usr/bin/env bash
# `make learn-vlm`: Spa3-VLM on more generated rooms than the demo's, for longer, asked only for
# numbers. Does the scene's latent pay? Every stage is one command, and is re-used when it is done.
set -euo pipefail
cd "$(dirname "$0")/.."

rooms=1000 held_out=200
# A home of its own: other rooms are held out than in the demo's.
export SPA3R_HOME=${SPA3R_HOME:-spa3r-home}/learn
spa3r=${SPA3R:-.venv/bin/spa3r}
numbers=object_counting,object_abs_distance,object_size_estimation,room_size_estimation
asked=(--per-family 3 --families "$numbers")

$spa3r rooms "$SPA3R_HOME/rooms" --count $rooms --val $held_out --size 224x168 --frames 24
$spa3r ingest "$SPA3R_HOME/rooms" --dataset rooms
$spa3r targets
$spa3r pretrain
$spa3r evaluate
$spa3r promote
$spa3r questions "${asked[@]}"
$spa3r tune --recipe vlm-learn --encoder models:/spa3r-encoder@candidate
$spa3r evaluate --suite vsi-bench --questions "$SPA3R_HOME"/questions/rooms-*/questions.jsonl \
  --media "$SPA3R_HOME"/shards/rooms-*/ --batch 32
$spa3r promote spa3-vlm
