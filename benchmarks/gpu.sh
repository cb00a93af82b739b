#!/bin/bash
# All that is to be measured on a GPU, within ten minutes; or some parts of it, by their names.
#
#     bash benchmarks/gpu.sh [check] [tests] [lowering] [speed] [train-1] [train-5]
#
# The two trainings run side by side, since neither fills a large GPU, once the speeds are measured.
# A part whose result is in OUT (default: runs/gpu) is not done again, and a training that was stopped
# goes on. PYTHON is the interpreter; SMALL=1 tries it all on a CPU at toy size.
set -u
cd "$(dirname "$0")/.."
out=$(realpath -m "${OUT:-runs/gpu}") runs=$(realpath -m "${RUNS:-${OUT:-runs/gpu}}")
python=${PYTHON:-python} small=${SMALL:+--quick}
mkdir -p "$out" "$runs"
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/compiled}
failed=0

# Do a part, `part NAME RESULT COMMAND...`, unless it has its result.
part() {
  local name=$1 result=$2 began=$SECONDS
  shift 2
  [ -e "$out/$result" ] && { echo "$name: done before"; return 0; }
  "$@" > "$out/$name.log" 2>&1 || { echo "$name: FAILED, see $out/$name.log"; return 1; }
  echo "$name: $((SECONDS - began)) s"
}

check() {
  "$python" -c "import jax, metacontrast; print(jax.__version__, jax.devices())
x = jax.numpy.ones((256, 256)) / 3
assert abs(float((x @ x)[0, 0]) / (256 / 9) - 1) < 1e-2" && touch "$out/checked"
}

# The core's products on this device, the head's and Gauss-Newton's solves.
tests() {
  "$python" -m pytest -q -n 4 -p no:cacheprovider -p no:benchmark tests/core/test_precision.py \
    ${SMALL:-tests/library/test_net_precision.py tests/library/test_head.py tests/core/test_gauss_newton.py} \
    && touch "$out/tested"
}

# One of the two kinds of tasks, whose result and metrics are copied to OUT.
train() {
  local shot=$1 folder=$runs/train-$1 resume=
  [ -d "$folder" ] && resume=--resume
  "$python" experiments/omniglot.py --method cml-syn --gpu --way 20 --shot "$shot" --no-diagnose \
    --on-collapse rollback --out "$folder" $resume $small ${SMALL:+--steps 2 --tasks 1 --filters 2 2 2 2 \
    --inner-steps 2 --nudged-steps 1 --test-steps 2 --validations 1 --valid-tasks 20 --test-tasks 20} || return 1
  cp "$folder/metrics.jsonl" "$out/gpu-20w${shot}s.metrics.jsonl"
  cp "$folder/result.json" "$out/gpu-20w${shot}s.json"
}

wanted=" ${*:-check tests lowering speed train-1 train-5} "
for name in check tests lowering speed; do
  [[ $wanted == *" $name "* ]] || continue
  case $name in
    check) part check checked check ;;
    tests) part tests tested tests ;;
    lowering) part lowering conv-lowering.json \
      "$python" benchmarks/conv_lowering.py $small --out "$out/conv-lowering.json" ;;
    speed) part speed gpu-speed.json "$python" benchmarks/gpu_speed.py $small --out "$out/gpu-speed.json" ;;
  esac || failed=1
done
pids=()
for shot in 1 5; do
  [[ $wanted == *" train-$shot "* ]] || continue
  part "train-$shot" "gpu-20w${shot}s.json" train "$shot" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
exit $failed
