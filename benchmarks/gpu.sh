#!/bin/bash
# All that is to be measured on a GPU, within ten minutes; or some parts of it, by their names.
#
#     bash benchmarks/gpu.sh [check] [tests] [lowering] [speed] [train-1] [train-5] [CELL...]
#
# train-1 and train-5 are cml-syn at Omniglot's 20-way tasks, on Vinyals' split. A CELL of another table is
# omniglot-METHOD-SHOT (20 ways, on the authors' own split), such as omniglot-cml-syn-1, or
# miniimagenet-METHOD-SHOT (5 ways, 84 pixels). What the talk compares with, maml, fomaml, reptile and
# imaml-cg, is in its published settings there.
#
# Trainings run side by side, since none fills a large GPU, once the speeds are measured. A part whose
# result is in OUT (default: runs/gpu) is not done again, and a training that was stopped goes on. PYTHON
# is the interpreter; SMALL=1 tries it all on a CPU at toy size.
set -u
cd "$(dirname "$0")/.."
out=$(realpath -m "${OUT:-runs/gpu}") runs=$(realpath -m "${RUNS:-${OUT:-runs/gpu}}")
python=${PYTHON:-python} small=${SMALL:+--quick}
mkdir -p "$out" "$runs"
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/compiled}

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

# `train NAME RESULT WORDS...`: an experiment's command, whose result and metrics are copied to OUT.
train() {
  local name=$1 result=$2 folder=$runs/$1 resume=
  shift 2
  [ -d "$folder" ] && resume=--resume
  "$python" experiments/"$@" --no-diagnose --on-collapse rollback --out "$folder" $resume $small \
    ${SMALL:+--steps 2 --tasks 1 --filters 2 2 2 2 --inner-steps 2 --nudged-steps 1 --test-steps 2 \
    --validations 1 --valid-tasks 20 --test-tasks 20} || return 1
  cp "$folder/metrics.jsonl" "$out/${result%.json}.metrics.jsonl"
  cp "$folder/result.json" "$out/$result"
}

# The command of a training by its name, in `words`, and the name of its result.
cell() {
  local name=$1 shot=${1##*-} method=${1#*-}
  method=${method%-*}
  result=gpu-$name.json
  case $name in
    train-[15])
      words=(omniglot.py --method cml-syn --gpu --way 20 --shot "$shot") result=gpu-20w${shot}s.json ;;
    omniglot-cml-*-[15])
      words=(omniglot.py --method "$method" --gpu --way 20 --shot "$shot" --split background) ;;
    omniglot-*-[15])
      words=(omniglot.py --method "$method" --published --way 20 --shot "$shot" --split background) ;;
    miniimagenet-cml-*-[15])
      words=(miniimagenet.py --method "$method" --way 5 --shot "$shot" --size 84 --filters 64 64 64 64) ;;
    miniimagenet-*-[15])
      words=(miniimagenet.py --method "$method" --published --way 5 --shot "$shot") ;;
    *) echo "$name: no part is called so, see the head of benchmarks/gpu.sh" >&2; return 1 ;;
  esac
}

[ $# -gt 0 ] || set -- check tests lowering speed train-1 train-5
failed=0 trainings=()
for name in "$@"; do
  case $name in
    check) part check checked check ;;
    tests) part tests tested tests ;;
    lowering) part lowering conv-lowering.json \
      "$python" benchmarks/conv_lowering.py $small --out "$out/conv-lowering.json" ;;
    speed) part speed gpu-speed.json "$python" benchmarks/gpu_speed.py $small --out "$out/gpu-speed.json" ;;
    *) cell "$name" && trainings+=("$name") ;;
  esac || failed=1
done
pids=()
for name in "${trainings[@]}"; do
  cell "$name"
  part "$name" "$result" train "$name" "$result" "${words[@]}" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
exit $failed
