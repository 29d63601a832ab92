#!/usr/bin/env bash
# What needs a GPU, in order of worth: tests, figures of speed, training on photographs at 32×32.
#   run      benchmarks/gpu.sh [tests] [figures] [train]    all three unless named; run again, training goes on
#   needs    for train: IMAGES='cifar10/train-*.zip'; pip install 'flowlit[features]'
#   writes   $OUT (runs/gpu): tests_<device>.xml, figures_<device>.json, weights, tables; $RUNS ($OUT): the training runs
#   options  by the environment: DEVICE=cpu QUICK=1 rehearses all at tiny sizes; MINUTES (12) in all; PYTHON;
#            METHOD (slimflow); TEACHER and STUDENT: more words for the two recipes, which lie in RECIPES
set -uo pipefail
cd "$(dirname "$0")/.." || exit

DEVICE=${DEVICE:-cuda} QUICK=${QUICK:-} OUT=${OUT:-runs/gpu} MINUTES=${MINUTES:-12} METHOD=${METHOD:-slimflow}
RUNS=${RUNS:-$OUT} RECIPES=${RECIPES:-experiments/recipes} IMAGES=${IMAGES:-}
[ -n "${PYTHON:-}" ] || PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
PIECE=${PIECE:-16000000} # bytes of a file at most

limited() {  # run a command until the time that is left for all is over; 124 if that was too short
    local left=$((MINUTES * 60 - SECONDS - 20))
    if ((left < 1)); then echo "gpu.sh: no time left for: $*"; return 124; fi
    timeout --signal=INT --kill-after=20 "$left" "$@"
}

run_tests() {
    local files=(tests/journeys/test_cuda.py tests/generators/test_python.py tests/test_frozen.py)
    local chosen="test_cuda or gpu"
    [ -z "$QUICK" ] || chosen="test_cuda and not compiled"
    FLOWLIT_TEST_DEVICE=$DEVICE limited "$PYTHON" -m pytest "${files[@]}" -k "$chosen" -q -rs --durations=10 \
        -o junit_family=xunit1 --junitxml "$OUT/tests_$DEVICE.xml"
}

run_figures() {
    limited "$PYTHON" -m benchmarks --device "$DEVICE" --out "$OUT/figures_$DEVICE.json" ${QUICK:+--quick}
}

run_train() {
    if [ -z "$IMAGES" ]; then echo "gpu.sh: train needs images; IMAGES='cifar10/train-*.zip' $0 train"; return 2; fi
    local shared=$RUNS/arena/shared method=$RUNS/arena/$METHOD/1 status
    if [ -n "$QUICK" ]; then
        TEACHER="--teacher.vars.teacher_width 8 --teacher.vars.teacher_steps 2 --teacher.vars.batch_size 8
            --couple.vars.pairs 32 --evaluate_teacher.vars.num 16 ${TEACHER:-}"
        STUDENT="--vars.reflow_steps 2 --vars.distill_steps 2 --vars.pairs 32 --reflow.vars.student_width 8
            --reflow.vars.batch_size 8 --distill.vars.batch_size 8 --evaluate_reflow.vars.num 16
            --evaluate_distill.vars.num 16 ${STUDENT:-}"
    fi
    # shellcheck disable=SC2086
    limited "$PYTHON" -m flowlit pipeline -c "$RECIPES/arena_teacher.yaml" --vars.resolution 32 --vars.images "$IMAGES" \
        --vars.shared "$shared" ${TEACHER:-} &&
        limited "$PYTHON" -m flowlit pipeline -c "$RECIPES/arena.yaml" --vars.resolution 32 --vars.method "$METHOD" \
            --vars.shared "$shared" --vars.teacher "$shared/teacher/checkpoints/last.ckpt" --root "$method" ${STUDENT:-}
    status=$?
    bring_out teacher "$shared" teacher
    bring_out "$METHOD" "$method" distill
    return $status
}

bring_out() {  # NAME FOLDER STAGE: weights of a stage, in pieces if they are large, and the recipe's table
    local name=$1 folder=$2 into=$OUT/$1.safetensors
    rm -f "$into" "$into".part-*
    [ ! -f "$folder/summary.json" ] || cp "$folder/summary.json" "$OUT/$name.json"
    [ ! -f "$folder/samples.png" ] || cp "$folder/samples.png" "$OUT/$name.png"
    [ -f "$folder/$3/checkpoints/last.ckpt" ] || return
    "$PYTHON" -m flowlit convert "$folder/$3/checkpoints/last.ckpt" --into "$into" || return
    if (($(stat -c %s "$into") > PIECE)); then
        split -b "$PIECE" "$into" "$into.part-" && rm "$into"
        echo "gpu.sh: $name is in pieces; join them: cat $name.safetensors.part-* > $name.safetensors"
    fi
}

SECTIONS=("$@") worst=0
[ $# -gt 0 ] || SECTIONS=(tests figures train)
mkdir -p "$OUT" "$RUNS" || exit
[ "$DEVICE" = cuda ] || export CUDA_VISIBLE_DEVICES=
if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: PyTorch finds no GPU here; DEVICE=cpu QUICK=1 $0 rehearses on the CPU"; exit 2
fi
for section in "${SECTIONS[@]}"; do
    case $section in tests | figures | train) ;; *) echo "gpu.sh: $section is none of tests, figures, train"; exit 2 ;; esac
done
for section in "${SECTIONS[@]}"; do
    echo "gpu.sh: $section on $DEVICE, after $SECONDS s"
    "run_$section"
    status=$?
    case $status in
        0) ;;
        124 | 130) echo "gpu.sh: $section: time is up; run again to go on" ;;
        *) echo "gpu.sh: $section failed ($status)" ;;
    esac
    [ $status -eq 0 ] || worst=$status
done
echo "gpu.sh: after $SECONDS s, in $OUT: $(cd "$OUT" && find . -maxdepth 1 -type f -printf '%f ')"
exit $worst
