#!/usr/bin/env bash
# Check this project on a GPU: tests that need one, models trained at once, and speed ratios. Needs no network.
#
#     scripts/gpu_check.sh [--small] [--wheels FOLDER] [--budget SECONDS] [TABLE]
#
# --small: on a CPU, with figures that mean nothing. --wheels: a folder of wheels to unpack first, for packages that are
# missing here. --budget: no step begins after so many seconds (420). TABLE: the Markdown file to write; by default
# gpu_check.md in the folder $OUT. A step that fails or takes too long is reported and stops no other step.
set -u
cd "$(dirname "$0")/.." || exit 1
small="" wheels="" budget=420 table="${OUT:+$OUT/gpu_check.md}"
while [ $# -gt 0 ]; do
    case "$1" in
        --small) small=yes ;;
        --wheels) wheels="$2"; shift ;;
        --budget) budget="$2"; shift ;;
        -*) echo "unknown option $1" >&2; exit 2 ;;
        *) table="$1" ;;
    esac
    shift
done
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
table="${table:-gpu_check.md}"
mkdir -p "$work/site" "$work/tmp"
python="$(command -v python || command -v python3)"
if [ -n "$wheels" ]; then
    for wheel in "$wheels"/*.whl; do "$python" -m zipfile -e "$wheel" "$work/site" || echo "cannot unpack $wheel"; done
fi
export PYTHONPATH="$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}" TMPDIR="$work/tmp" WANDB_MODE=disabled HF_HUB_OFFLINE=1
export PYTHONWARNINGS=ignore TOKENIZERS_PARALLELISM=false
trainer=gpu resident=dataset.resident=device quick=()
[ -n "$small" ] && trainer=cpu resident=dataset.resident=host quick=(--quick)
pytest=("$python" -m pytest -o addopts= -q --tb=short -p no:cacheprovider)
bench=("$python" scripts/bench.py)
rows="$work/rows.md" logs="$work/logs.md"
: > "$rows"; : > "$logs"
begin=$SECONDS

# step NAME SECONDS PATTERN COMMAND...: run a command; lines that match the pattern are its figures.
step() {
    local name="$1" limit="$2" pattern="$3" left=$((budget - (SECONDS - begin))) started=$SECONDS code figures
    shift 3
    if [ "$left" -lt 15 ]; then
        echo "| $name | no time left | | |" >> "$rows"
        return
    fi
    [ "$limit" -gt "$left" ] && limit="$left"
    echo "== $name (at most $limit s)"
    timeout -k 5 "$limit" "$@" > "$work/step.log" 2>&1 < /dev/null
    code=$?
    figures="$(grep -E "$pattern" "$work/step.log" | sed -E 's/ +/ /g; s/^ //; s/\|/\//g' | paste -sd ';' | sed 's/;/<br>/g')"
    { [ "$code" = 124 ] || [ "$code" = 137 ]; } && code="timeout"
    [ "$code" = 0 ] && code="passed"
    echo "| $name | $code | $((SECONDS - started)) | $figures |" >> "$rows"
    { echo; echo "### $name: \`$*\`"; echo; echo '```'; tail -n 60 "$work/step.log" | cut -c 1-400; echo '```'; } >> "$logs"
    tail -n 12 "$work/step.log" | cut -c 1-300
    write
}

# Write what is known so far: the table is there even if this script is killed.
write() {
    {
        echo "# Check of $(git describe --always --dirty 2>/dev/null || echo 'this tree') on $(date -u +%FT%TZ)"
        echo
        echo "| step | result | seconds | figures |"
        echo "|---|---|---:|---|"
        cat "$rows"
        echo
        echo "$((SECONDS - begin)) s in all."
        cat "$logs"
    } > "$table"
}

# Warnings of a library are no figures.
step "versions" 60 "^(python|device|CUDA|hydra) |Error" "$python" -c "
import sys, torch, lightning, os
print('python', sys.version.split()[0], 'torch', torch.__version__, 'lightning', lightning.__version__)
print('device', torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu', 'cores', os.cpu_count())
print('CUDA', torch.version.cuda, 'cuDNN', torch.backends.cudnn.version())
import hydra, omegaconf, soundfile, speechforget.pipeline
print('hydra', hydra.__version__, 'soundfile', soundfile.__version__)
"
stacked=("${bench[@]}" stacked --trainer "$trainer" ${quick[@]+"${quick[@]}"})
train=("${bench[@]}" train --models tcresnet --rounds 1 --trainer "$trainer" ${quick[@]+"${quick[@]}"})
step "8 models at once" 100 "at once|one by one|times|step of" "${stacked[@]}" "$resident"
if [ -n "$small" ]; then
    step "tests" 100 "passed|failed|error|FAILED|^E  " "${pytest[@]}" tests/integration/test_train_many.py -k "as_alone and tcresnet"
else
    step "tests that need a GPU" 110 "passed|failed|error|FAILED|^E  " "${pytest[@]}" --maxfail=20 -m gpu $(grep -rl --include='*.py' mark.gpu tests)
fi
step "training, recordings on the device" 70 "run.py|bare|scoring" "${train[@]}" "$resident"
step "training, bfloat16" 60 "run.py|bare|scoring" "${train[@]}" "$resident" trainer.precision=bf16-mixed
step "8 models at once, bfloat16" 60 "at once|one by one|times|step of" "${stacked[@]}" --rounds 1 "$resident" trainer.precision=bf16-mixed
step "24 models at once" 60 "at once|one by one|times|step of" "${stacked[@]}" --rounds 1 --together 24 "$resident"
step "training, recordings on the host" 60 "run.py|bare|scoring" "${train[@]}"
[ -n "$small" ] || step "training, compiled" 110 "run.py|bare|scoring" "${train[@]}" "$resident" trainer.compile=true
write
echo
cat "$rows"
echo "written to $table"
