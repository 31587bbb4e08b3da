#!/usr/bin/env bash
# Tests farthing's cuda device on this machine's first GPU and measures what the machine can do at best.
#
#   ./run.sh [RESULTS]      RESULTS: a folder, made if absent; default: results beside this script
#
# Needs an NVIDIA driver (libcuda.so.1) and bash; no Rust, network or CUDA toolkit. Matrix products need cuBLASLt, wherever it is found.
# RESULTS/summary.md is what docs/gpu.md takes up; each part's own words are in RESULTS/*.log.
# Exit status: 0 all passed, 1 a part failed, 2 no usable GPU.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=$here/bin
results=${1:-$here/results}
mkdir -p "$results" || exit 1
rm -f "$results"/*.log "$results"/summary.md "$results"/ceilings.json
# The tests skip a device that is absent; one that is named here has to be there.
export FARTHING_TEST_DEVICES=cuda:0

if ! RUST_BACKTRACE=0 "$bin/same_bits" --exact device --nocapture >"$results/device.log" 2>&1; then
    echo "no usable GPU on this machine: nothing was tested" >&2
    cat "$results/device.log" >&2
    exit 2
fi
device=$(sed -n 's/^device: //p' "$results/device.log" | head -n 1)

cp "$here/MANIFEST.toml" "$results/" || exit 1

failed=0
rows=""
# part NAME COMMAND...: runs it, with its words in NAME.log, and adds a row to the table.
part() {
    local name=$1 start=$SECONDS verdict=passed
    shift
    echo "== $name"
    if ! "$@" >"$results/$name.log" 2>&1; then
        verdict=FAILED
        failed=1
        tail -n 40 "$results/$name.log" >&2
    fi
    echo "$name: $verdict in $((SECONDS - start)) s"
    rows+="| $name | $verdict | $((SECONDS - start)) s |"$'\n'
}
part conformance "$bin/conformance" --test-threads=1 --nocapture
part same_bits "$bin/same_bits" --test-threads=1 --nocapture
part ceilings "$bin/ceilings"

# The measured figures: a JSON object or array that starts and ends at a line's start, and the lines of Markdown tables.
awk '/^[[{]/ { on = 1 } on { print } on && (/^[]}]/ || /^[[{].*[]}]$/) { exit }' "$results/ceilings.log" >"$results/ceilings.json"
{
    echo "$(date -u +%Y-%m-%d), ${device:-unknown device}, \`./run.sh\` of \`cargo xtask gpu-bundle\`"
    printf '\n| part | result | time |\n| --- | --- | ---: |\n%s\n' "$rows"
    grep '^|' "$results/ceilings.log"
} >"$results/summary.md"
cat "$results/summary.md"
exit "$failed"
