#!/usr/bin/env bash
# Tests farthing's cuda device on this machine's first GPU, measures a training step, and nanochat's beside it.
#
#   ./run.sh RESULTS [--seconds 540] [--parts a,b] [--device cuda:0|emulated] [--toy]
#
#   RESULTS         a folder, made if absent: summary.md, summary.json, parts.log, warm.log, MANIFEST.toml
#   --seconds N     the whole ends before that, whatever happens; the parts' limits scale with it (default 540, at least 20)
#   --parts a,b     only these, of: environment conformance large ceilings check d12 d24 nanochat counters nccl sanitizer same_bits
#   --device D      cuda:0 (default), or emulated: our kernels on this machine's processor
#   --toy           everything small, to see that it runs
#
# Needs bash 5, coreutils, awk and /proc; for cuda:0 an NVIDIA driver (libcuda.so.1). No Rust, network, Python or CUDA toolkit: what needs
# more (matrix products want cuBLASLt; nanochat a python3 with torch; counters ncu; sanitizer compute-sanitizer) says so and is skipped.
#
# A part that fails or overruns costs the others nothing. `environment` always runs. nanochat's compilation goes on in the background from
# the beginning and is stopped (SIGSTOP) whenever a part that times anything runs. The summary is rewritten after every part.
# Exit status: 0 all that ran passed, 1 a part failed or ran out of time, 2 no usable GPU, or bad arguments.
# shellcheck disable=SC2015,SC2016,SC2030,SC2031  # `a && b || c` where b cannot fail; backticks of Markdown; marks are for the child alone
set -uo pipefail
LC_ALL=C

all=(environment conformance large ceilings check d12 d24 nanochat counters nccl sanitizer same_bits)
# Seconds of the 540; what a part leaves is for those after it, each of which may take twice its own at most.
declare -A plan=([environment]=15 [conformance]=45 [large]=25 [ceilings]=65 [check]=25 [d12]=25 [d24]=80 [nanochat]=130 [counters]=30
    [nccl]=15 [sanitizer]=40 [same_bits]=45)
# Nothing else uses the GPU beside these. nanochat sees to it by itself.
declare -A timed=([ceilings]=1 [check]=1 [d12]=1 [d24]=1 [counters]=1)
readonly LOG_BYTES=1200000         # of one part in parts.log
readonly RUNAWAY_BYTES=256000000   # a part that has said more is ended
readonly GRACE_MS=1500             # between TERM and KILL

refuse() { printf 'run.sh: %s\n  hint: %s\n' "$1" "$2" >&2; exit 2; }

[ -n "${EPOCHREALTIME:-}" ] || refuse "bash ${BASH_VERSION:-} is too old" "5.0 or newer"

# ---- arguments
here=$(cd "$(dirname "$0")" && pwd) || exit 2
bin=$here/bin
results="" seconds=540 parts="" device=cuda:0 toy=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds | --parts | --device)
            [ $# -ge 2 ] || refuse "$1 has no value" "see the head of run.sh"
            case $1 in
                --seconds) seconds=$2 ;;
                --parts) parts=$2 ;;
                --device) device=$2 ;;
            esac
            shift
            ;;
        --toy) toy=(--toy) ;;
        -*) refuse "unknown option $1" "options are --seconds, --parts, --device and --toy" ;;
        *)
            [ -z "$results" ] || refuse "two folders for results: $results and $1" "name one"
            results=$1
            ;;
    esac
    shift
done
[ -n "$results" ] || refuse "no folder for results" "./run.sh RESULTS [--seconds 540] [--parts a,b] [--device cuda:0|emulated] [--toy]"
case $seconds in "" | *[!0-9]* | ??????*) refuse "--seconds $seconds is no number of seconds" "540, for instance" ;; esac
seconds=$((10#$seconds))
[ "$seconds" -ge 20 ] || refuse "--seconds $seconds is too little for anything" "at least 20"
case $device in cuda:0 | emulated) ;; *) refuse "unknown device $device" "cuda:0 or emulated" ;; esac
# What was asked for, without this machine's own path.
said="./run.sh RESULTS --seconds $seconds --device $device${parts:+ --parts $parts}${toy[0]:+ --toy}"
declare -A wanted=([environment]=1)
IFS=, read -ra names <<<"$parts"
for name in ${names[@]+"${names[@]}"}; do
    [ -n "${plan[$name]:-}" ] || refuse "unknown part $name" "parts are ${all[*]}"
    wanted[$name]=1
done
order=()
for name in "${all[@]}"; do
    if [ -z "$parts" ] || [ -n "${wanted[$name]:-}" ]; then order+=("$name"); fi
done

mkdir -p "$results" && results=$(cd "$results" && pwd) || refuse "cannot make the folder $results" "name another"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/farthing-gpu.XXXXXX") || refuse "cannot make a temporary folder" "set TMPDIR to one with space"
mkdir "$scratch/json" "$scratch/tmp" "$scratch/cache" || exit 2
rm -f "$results"/{summary.md,summary.json,parts.log,warm.log,running.log,MANIFEST.toml}{,.partial}
# What killed parts leave behind lies in there too, and goes with it.
export TMPDIR=$scratch/tmp
cp "$here/MANIFEST.toml" "$results/" || refuse "the bundle has no MANIFEST.toml" "copy the whole folder that cargo xtask gpu-bundle made"
commit=unknown
[ -r "$here/COMMIT" ] && read -r commit <"$here/COMMIT"
today=$(date -u +%Y-%m-%d)

# ---- time, in milliseconds since the start
tell() { now=$((${EPOCHREALTIME/[.,]/} / 1000 - began)); }
began=$((${EPOCHREALTIME/[.,]/} / 1000))
tell
# The end of the time is kept for ending what runs and for the summary.
spare=$((seconds * 1000 / 60))
[ "$spare" -ge 4000 ] || spare=4000
deadline=$((seconds * 1000 - spare))
total=0
for name in "${order[@]}"; do total=$((total + plan[$name])); done
in_s() { printf -v REPLY '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100)); }
progress() { tell; printf '[%3d s] %s\n' $((now / 1000)) "$1"; }

# ---- processes
# Everything that is started carries its mark in its environment, and so do its children, wherever they go.
mark=farthing-$$-$RANDOM$RANDOM
# members MARK [PID]: sets `members` to the living processes that carry the mark, with PID and the descendants of them all.
members() {
    local entry pid state parent line grew set
    local -A parents=() inside=()
    [ -z "${2:-}" ] || inside[$2]=1
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        { IFS= read -r -d '' line <"$entry/stat" || [ -n "${line:-}" ]; } 2>/dev/null || continue
        read -r state parent line <<<"${line##*) }"
        case $state in Z | X) continue ;; esac
        parents[$pid]=$parent
        mapfile -d '' -t set 2>/dev/null <"$entry/environ" || continue
        case " ${set[*]:-} " in *" FARTHING_MARK=$1 "*) inside[$pid]=1 ;; esac
    done 2>/dev/null
    unset "inside[$$]"
    grew=1
    while [ "$grew" = 1 ]; do
        grew=0
        for pid in "${!parents[@]}"; do
            if [ -z "${inside[$pid]:-}" ] && [ -n "${inside[${parents[$pid]}]:-}" ]; then inside[$pid]=1 grew=1; fi
        done
    done
    members=()
    for pid in "${!inside[@]}"; do
        [ -z "${parents[$pid]:-}" ] || members+=("$pid")
    done
}
# finish MARK [PID]: ends them all, with TERM and then KILL.
finish() {
    local until
    members "$@"
    [ ${#members[@]} -gt 0 ] || return 0
    kill -TERM "${members[@]}" 2>/dev/null
    kill -CONT "${members[@]}" 2>/dev/null # One that is stopped sees TERM only then.
    tell
    until=$((now + GRACE_MS))
    while sleep 0.05; do
        members "$@"
        [ ${#members[@]} -gt 0 ] || return 0
        tell
        [ "$now" -lt "$until" ] || break
    done
    until=$((now + 2000))
    while [ ${#members[@]} -gt 0 ] && [ "$now" -lt "$until" ]; do
        kill -KILL "${members[@]}" 2>/dev/null
        sleep 0.05
        members "$@"
        tell
    done
    [ ${#members[@]} -eq 0 ] || progress "processes that KILL does not end: ${members[*]}"
}
# capped FROM TO: a copy with head and tail, if it is long.
capped() {
    local bytes
    bytes=$(wc -c <"$1") || return 0
    if [ "$bytes" -le "$LOG_BYTES" ]; then
        cat "$1"
    else
        head -c $((LOG_BYTES / 2)) "$1"
        printf '\n[... %d bytes left out ...]\n' $((bytes - LOG_BYTES))
        tail -c $((LOG_BYTES / 2)) "$1"
    fi >"$2"
}

# ---- nanochat's compilation, in the background
# A queue: `probe PYTHON` asks whether its torch sees CUDA, `depth N` runs each case of that depth once.
warm_queue=() warm_pid="" warm_job="" warm_stopped="" python="" python_why="nothing looked for one yet"
export TORCHINDUCTOR_CACHE_DIR=$scratch/cache/inductor TRITON_CACHE_DIR=$scratch/cache/triton
export TORCHINDUCTOR_FX_GRAPH_CACHE=1 TORCHINDUCTOR_AUTOGRAD_CACHE=1
nanochat=$here/nanochat
# nanochat_command DEPTH...: sets `command`. bf16 and fp8 of one depth are one process, as gpu_nanochat.py has it.
nanochat_command() {
    local depth=$1
    shift
    command=(env "NANOCHAT_DIR=$nanochat" "NANOCHAT_BASE_DIR=$scratch/tmp/nanochat" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
        HF_HUB_OFFLINE=1 "$python" "$nanochat/gpu_nanochat.py" --depths "$depth" --rows 16 --fp8 "$@")
}
warm_pump() {
    local code command
    if [ -n "$warm_pid" ]; then
        kill -0 "$warm_pid" 2>/dev/null && return
        wait "$warm_pid" 2>/dev/null
        code=$?
        warm_pid=""
        case $warm_job in
            probe*) if [ "$code" = 0 ]; then
                python=${warm_job#probe } python_why=""
                warm_queue=("depth 12" "depth 24")
            else
                python_why+="; ${warm_job#probe } has a torch that sees no CUDA"
            fi ;;
            *) progress "nanochat's warm-up of d${warm_job#depth } ended with status $code" ;;
        esac
        warm_job=""
    fi
    [ -z "$warm_stopped" ] && [ ${#warm_queue[@]} -gt 0 ] || return 0
    warm_job=${warm_queue[0]}
    warm_queue=("${warm_queue[@]:1}")
    case $warm_job in
        probe*) command=("${warm_job#probe }" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())') ;;
        *) nanochat_command "${warm_job#depth }" --warm 1 --steps 1 ;;
    esac
    (export FARTHING_MARK=$mark-warm && exec "${command[@]}") </dev/null >>"$scratch/warm.log" 2>&1 &
    warm_pid=$!
}
warming() { [ -n "$warm_pid" ] || [ ${#warm_queue[@]} -gt 0 ]; }
# Stops the whole tree; a process that is stopped starts none, so that this comes to an end.
warm_stop() {
    warm_stopped=1
    [ -n "$warm_pid" ] || return 0
    local pid before="" tries=0
    while [ $((tries += 1)) -le 40 ]; do
        members "$mark-warm" "$warm_pid"
        [ "${members[*]:-}" != "$before" ] || break
        before=${members[*]:-}
        for pid in ${members[@]+"${members[@]}"}; do kill -STOP "$pid" 2>/dev/null; done
        sleep 0.05
    done
    # What it had queued on the GPU, a step at most, runs out.
    [ "$device" = emulated ] || sleep 1
}
warm_go_on() {
    warm_stopped=""
    [ -n "$warm_pid" ] || return 0
    members "$mark-warm" "$warm_pid"
    [ ${#members[@]} -eq 0 ] || kill -CONT "${members[@]}" 2>/dev/null
}
# Ends what runs; with `again` it is queued once more (its cache on disk stays).
warm_end() {
    [ -z "$warm_pid" ] && return
    finish "$mark-warm" "$warm_pid"
    kill -0 "$warm_pid" 2>/dev/null || wait "$warm_pid" 2>/dev/null
    [ "${1:-}" != again ] || warm_queue=("$warm_job" ${warm_queue[@]+"${warm_queue[@]}"})
    warm_pid="" warm_job=""
}

# ---- JSON
json_string() {
    local text=${1//[^[:print:]]/?}
    text=${text//\\/\\\\}
    REPLY=\"${text//\"/\\\"}\"
}
# Whether the file is one whole JSON value.
is_json() {
    [ -s "$1" ] && awk '
        { text = text $0 "\n" }
        END {
            gsub(/"([^"\\\n]|\\[^\n])*"/, "\"", text)
            gsub(/-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null/, "0", text)
            gsub(/[ \t\r\n]+/, "", text)
            do {
                before = text
                gsub(/\[\]|\[[0"](,[0"])*\]|\{\}|\{":[0"](,":[0"])*\}/, "0", text)
            } while (text != before)
            exit text != "0"
        }' "$1"
}
# Prints what a part wrote, or null.
json_of() { if [ -e "$scratch/json/$1.ok" ]; then cat "$scratch/json/$1.ok"; else printf null; fi; }
# took NAME: takes over NAME's JSON if it is there and whole.
take() {
    if is_json "$scratch/json/$1"; then mv "$scratch/json/$1" "$scratch/json/$1.ok"; fi
}
# A number of a JSON text on one line: the first of that name.
readonly FIELD='function field(text, name) {
    if (!match(text, "\"" name "\": *-?[0-9.][0-9.eE+-]*")) return ""
    text = substr(text, RSTART, RLENGTH); sub(/^[^:]*: */, "", text); return text
}'
first_number() {
    [ -e "$scratch/json/$1.ok" ] || return 0
    awk -v name="$2" "$FIELD"' { text = text $0 } END { print field(text, name) }' "$scratch/json/$1.ok"
}

# ---- the summary
declare -A verdict=() reason=() took=()
current="" ended="" gpu=null note=""
# state NAME: sets `state` and `why`.
state() {
    state=${verdict[$1]:-} why=${reason[$1]:-}
    [ -z "$state" ] || return 0
    if [ -n "$ended" ]; then
        state=skipped why=$ended
    elif [ "$1" = "$current" ]; then
        state=running
    else
        state="not run"
    fi
}
# Ours and nanochat's side by side: one line `DEPTH OURS BF16 FP8`, with a dash for what is not there.
ratios() {
    local depth
    for depth in 12 24; do
        { json_of nanochat; echo; } | awk -v depth="$depth" -v ours="$(first_number "d$depth" micro_ms)" "$FIELD"'
            field($0, "depth") == depth && field($0, "micro_ms") != "" {
                at[$0 ~ /"precision": *"fp8"/ ? "fp8" : "bf16"] = field($0, "micro_ms")
            }
            function or_dash(x) { return x == "" ? "-" : x }
            END { print depth, or_dash(ours), or_dash(at["bf16"]), or_dash(at["fp8"]) }'
    done
}
markdown() {
    local name gpu_name=${gpu#\"}
    gpu_name=${gpu_name%\"}
    [ "$gpu" != null ] || gpu_name=$device
    printf '%s, %s, `%s`, commit %s\n\n| part | result | seconds |\n| --- | --- | ---: |\n' "$today" "$gpu_name" "$said" "$commit"
    for name in "${order[@]}"; do
        state "$name"
        why=${why//|//}
        printf '| %s | %s%s | %s |\n' "$name" "$state" "${why:+: $why}" "${took[$name]:-}"
    done
    printf '%s' "$note"
    if [ -e "$scratch/json/nanochat.ok" ]; then
        printf '\n## nanochat on the same GPU\n'
        printf 'Milliseconds of one micro-batch of 16 rows, forward and backward, without the optimizer; FlexAttention in place of FlashAttention-3, which nanochat uses.\n\n'
        printf '| depth | ours | nanochat bf16 | ours / nanochat | nanochat fp8 | ours / nanochat fp8 |\n| ---: | ---: | ---: | ---: | ---: | ---: |\n'
        ratios | awk '
            function ratio(a, b) { return a == "-" || b == "-" || b == 0 ? "-" : sprintf("%.3f", a / b) }
            { printf "| %s | %s | %s | %s | %s | %s |\n", $1, $2, $3, ratio($2, $3), $4, ratio($2, $4) }'
        printf '\n| nanochat | ms of a micro-batch | of it attention, called alone | optimizer | TFLOP/s | peak GB |\n| --- | ---: | ---: | ---: | ---: | ---: |\n'
        { json_of nanochat; echo; } | awk "$FIELD"'
            field($0, "micro_ms") != "" {
                rest = $0; attention = ""
                while (match(rest, /"layers": *[0-9]+, *"forward_ms": *[0-9.]+, *"both_ms": *[0-9.]+/)) {
                    one = substr(rest, RSTART, RLENGTH); rest = substr(rest, RSTART + RLENGTH)
                    attention += field(one, "layers") * field(one, "both_ms")
                }
                printf "| d%s %s | %s | %s | %s | %s | %s |\n", field($0, "depth"), $0 ~ /"precision": *"fp8"/ ? "fp8" : "bf16",
                    field($0, "micro_ms"), attention == "" ? "-" : sprintf("%.1f", attention), field($0, "optimizer_ms"),
                    field($0, "tflops"), field($0, "peak_gb")
            }'
    fi
    for name in "${order[@]}"; do
        # Tables, headings and lists: what a part prints for this.
        [ -s "$scratch/$name.log" ] && awk -v name="$name" '
            /^(\||#+ |- |\*\*)/ { if (!any++) printf "\n## %s\n", name; print; table = 1; next }
            table { print ""; table = 0 }' "$scratch/$name.log"
    done
    return 0
}
json() {
    local name comma=""
    json_string "$said"
    printf '{\n"date": "%s", "device": "%s", "gpu": %s, "toy": %s, "command": %s, ' "$today" "$device" "$gpu" "$([ ${#toy[@]} -gt 0 ] && echo true || echo false)" "$REPLY"
    json_string "$commit"
    printf '"commit": %s,\n"parts": [' "$REPLY"
    for name in "${order[@]}"; do
        state "$name"
        json_string "$state"
        printf '%s\n{"name": "%s", "result": %s, ' "$comma" "$name" "$REPLY"
        REPLY=null
        [ -z "$why" ] || json_string "$why"
        printf '"why": %s, "seconds": %s}' "$REPLY" "${took[$name]:-null}"
        comma=,
    done
    printf '],\n'
    for name in conformance large ceilings check d12 d24 d24_rows_32 nanochat nccl same_bits; do
        printf '"%s": %s,\n' "$name" "$(json_of "$name")"
    done
    ratios | awk '
        function number(x) { return x == "-" ? "null" : x }
        function ratio(a, b) { return a == "-" || b == "-" || b == 0 ? "null" : sprintf("%.4f", a / b) }
        BEGIN { printf "\"ratio\": {" }
        { printf("%s\"d%s\": {\"ours_ms\": %s, \"nanochat_bf16_ms\": %s, \"bf16\": %s, \"nanochat_fp8_ms\": %s, \"fp8\": %s}", NR > 1 ? ", " : "",
            $1, number($2), number($3), ratio($2, $3), number($4), ratio($2, $4)) }
        END { print "}\n}" }'
}
write_summary() {
    markdown >"$results/summary.md.partial" && mv "$results/summary.md.partial" "$results/summary.md"
    json >"$results/summary.json.partial" && mv "$results/summary.json.partial" "$results/summary.json"
    [ ! -s "$scratch/warm.log" ] || capped "$scratch/warm.log" "$results/warm.log"
}

# ---- steps of a part
# step UNTIL COMMAND...: runs it with its words in the part's log. False, with the part's verdict, if it fails or does not end in time.
step_pid="" code=0 late=""
step() {
    local until=$1 looked=0 bytes from why who
    shift
    [ "$until" -le "$part_until" ] || until=$part_until
    tell
    from=$now
    late="" why=""
    # The program that is meant, behind `env` and what it sets.
    for who in "$@"; do case $who in *=*) ;; */*) break ;; esac; done
    who=${who##*/}
    printf '$ %s\n' "$*" >>"$log"
    (export FARTHING_MARK=$mark-step && exec "$@") </dev/null >>"$log" 2>&1 &
    step_pid=$!
    while kill -0 "$step_pid" 2>/dev/null; do
        sleep 0.05
        warm_pump
        tell
        if [ "$now" -ge "$until" ]; then
            in_s $((until - from))
            late=1 why="not done after $REPLY s"
        elif [ "$now" -ge $((looked + 2000)) ]; then
            looked=$now
            bytes=$(wc -c <"$log")
            if [ "$bytes" -gt "$RUNAWAY_BYTES" ]; then late=1 why="ended after it had said $bytes bytes"; fi
            capped "$log" "$results/running.log"
        fi
        [ -z "$late" ] || break
    done
    [ -z "$late" ] || finish "$mark-step" "$step_pid"
    # One that even KILL did not end is not waited for.
    kill -0 "$step_pid" 2>/dev/null || wait "$step_pid" 2>/dev/null
    code=$?
    step_pid=""
    finish "$mark-step" # What it left running.
    if [ -n "$late" ]; then
        why="$who: $why"
        verdict[$part]=${verdict[$part]:-ran out of time}
    elif [ "$code" != 0 ]; then
        why="$who: status $code, $(last_words)"
        verdict[$part]=FAILED
    else
        return 0
    fi
    printf '%s\n' "$why" >>"$log"
    reason[$part]=${reason[$part]:+${reason[$part]}; }$why
    return 1
}
# The last line of the log that looks like the reason, or the last line: what comes after a panic's place, a FAILED, an error.
last_words() {
    tail -c 20000 "$log" | awk '
        /^ *(hint|note): / || /^test / || !NF { next }
        { last = $0 }
        after { said = $0; after = 0; next }
        /panicked at / { after = 1 }
        /FAILED|[Ee]rror/ { said = $0 }
        END { print substr(said != "" ? said : last, 1, 240) }'
}
skip() { verdict[$part]=skipped reason[$part]=$1; }
failed() { verdict[$part]=FAILED reason[$part]=${reason[$part]:+${reason[$part]}; }$1; }
# tool NAME: sets `tool` to its path, or fails.
tool() {
    tool=$(type -P "$1") && return
    for tool in /usr/local/cuda*/bin/"$1" /opt/cuda/bin/"$1" /opt/nvidia/nsight-compute/*/"$1"; do
        [ ! -x "$tool" ] || return 0
    done
    return 1
}

# ---- the parts
part_environment() {
    local file candidate version found="" short=$((part_until / 3))
    {
        printf -- '- commit %s, device %s\n' "$commit" "$device"
        printf -- '- %s\n' "$(uname -srm)"
        printf -- '- cores: %s\n' "$(nproc 2>/dev/null || echo unknown)"
        awk '/^(MemTotal|MemAvailable)/ { printf "- %s %.1f GB\n", $1, $2 * 1024 / 1e9 }' /proc/meminfo
        printf -- '- libc: %s\n' "$(type -P getconf >/dev/null && getconf GNU_LIBC_VERSION || echo unknown)"
        for file in ncu compute-sanitizer nvidia-smi; do
            if tool "$file"; then printf -- '- %s: %s\n' "$file" "$tool"; else printf -- '- %s: not here\n' "$file"; fi
        done
        # Where the driver's and cuBLASLt's libraries may be; which one is taken, the device says when it opens.
        for file in /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib /usr/local/nvidia/lib64 /usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib; do
            for candidate in "$file"/libcuda.so.1 "$file"/libcublasLt.so.[0-9][0-9]; do
                [ ! -e "$candidate" ] || printf -- '- %s\n' "$candidate"
            done
        done
    } >>"$log" 2>&1
    if tool nvidia-smi; then
        step "$short" "$tool" --query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,power.limit --format=csv
    fi
    if [ "$device" = cuda:0 ]; then
        if step "$((part_until * 3 / 4))" env RUST_BACKTRACE=0 FARTHING_TEST_DEVICES=cuda:0 "$bin/same_bits" --exact device --nocapture; then
            json_string "$(awk '/device: / { sub(/^.*device: /, ""); sub(/ \(capability.*$/, ""); print; exit }' "$log")"
            gpu=$REPLY
        else
            no_gpu=1
            return
        fi
    fi
    python_why="no python3 here has torch"
    while IFS= read -r candidate; do
        tell
        [ -x "$candidate" ] && [ "$now" -lt "$part_until" ] || continue
        # A virtual environment's python3 may be a link to one that is not in it: only the same folder makes it the same.
        version=$(readlink -f "${candidate%/*}")
        case $found in *"|$version|"*) continue ;; esac
        found+="|$version|"
        version=$(run_briefly 3 "$candidate" -c '
import glob, importlib.metadata as m, sys
found = [f for p in sys.path for f in glob.glob(p + "/nvidia/*/lib/libcublasLt.so.*")]
try: print(sys.version.split()[0], "torch", m.version("torch"), *found)
except m.PackageNotFoundError: print(sys.version.split()[0], "no torch", *found)')
        printf -- '- %s: %s\n' "$candidate" "${version:-does not run}" >>"$log"
        case $version in *" torch "*) warm_queue+=("probe $candidate") python_why="" ;; esac
    done < <(type -aP python3; printf '%s\n' "${VIRTUAL_ENV:-/nowhere}/bin/python3" "${CONDA_PREFIX:-/nowhere}/bin/python3" \
        /opt/*/bin/python3 /opt/*/.venv/bin/python3 /opt/*/venv/bin/python3)
    verdict[$part]=passed reason[$part]=""
}
# run_briefly SECONDS COMMAND...: its output, if it ends by then.
run_briefly() {
    local limit=$1
    shift
    (export FARTHING_MARK=$mark-brief && exec timeout -k 1 "$limit" "$@") </dev/null 2>>"$log"
}
part_conformance() { step "$part_until" "$bin/conform" --device "$device" ${toy[@]+"${toy[@]}"} --json "$scratch/json/conformance"; }
part_large() {
    [ "$device" != emulated ] || { skip "real sizes would take the emulator hours"; return; }
    [ ${#toy[@]} -eq 0 ] || { skip "real sizes are not for --toy"; return; }
    step "$part_until" "$bin/conform" --device "$device" --large --json "$scratch/json/large"
}
part_ceilings() { step "$part_until" "$bin/ceilings" --device "$device" ${toy[@]+"${toy[@]}"} --json "$scratch/json/ceilings"; }
part_check() { step "$part_until" "$bin/gpu_step" --device "$device" ${toy[@]+"${toy[@]}"} --check --json "$scratch/json/check"; }
part_d12() {
    local steps=()
    [ ${#toy[@]} -eq 0 ] || steps=(--steps 1)
    step "$part_until" "$bin/gpu_step" --device "$device" ${toy[@]+"${toy[@]}"} --depth 12 --rows 16 ${steps[@]+"${steps[@]}"} --json "$scratch/json/d12"
}
part_d24() {
    # In small, any depth and number of rows is the same case: once is enough.
    if [ ${#toy[@]} -gt 0 ]; then
        step "$part_until" "$bin/gpu_step" --device "$device" --toy --depth 24 --rows 16 --steps 1 --checkpoint --json "$scratch/json/d24"
        return
    fi
    step "$((now + (part_until - now) * 3 / 4))" \
        "$bin/gpu_step" --device "$device" --depth 24 --rows 16 --steps 3 --checkpoint --json "$scratch/json/d24"
    step "$part_until" "$bin/gpu_step" --device "$device" --depth 24 --rows 32 --steps 1 --json "$scratch/json/d24_rows_32"
}
part_nanochat() {
    local depth until line command lines=$scratch/nanochat.lines
    [ "$device" != emulated ] || { skip "nanochat runs on a GPU"; return; }
    [ -e "$nanochat/gpu_nanochat.py" ] || { skip "the bundle was made without nanochat"; return; }
    # More than half of its own time is for what is timed; a case that is not compiled by then compiles in its own process, untimed.
    until=$((part_until - scale * plan[nanochat] * 6 / 10))
    while warming && [ "$now" -lt "$until" ]; do
        sleep 0.05
        warm_pump
        tell
    done
    if warming; then
        echo "nanochat's warm-up was not done: ${warm_job:-} ${warm_queue[*]:-}" >>"$log"
        warm_end
        warm_queue=()
    fi
    [ -n "$python" ] || { skip "${python_why#; }"; return; }
    echo "attention is FlexAttention in place of FlashAttention-3" >>"$log"
    for depth in 12 24; do
        tell
        until=$part_until
        [ "$depth" = 24 ] || until=$((now + (part_until - now) * 4 / 10))
        nanochat_command "$depth"
        if step "$until" "${command[@]}"; then
            awk -v depth="$depth" "$FIELD"'
                /^\{/ && field($0, "depth") == depth && field($0, "micro_ms") != "" { any = 1 }
                END { exit !any }' "$log" || failed "d$depth gave no figure"
        fi
    done
    # Whole lines of JSON, and no others.
    : >"$lines"
    awk '/^\{.*\}$/' "$log" | while IFS= read -r line; do
        printf '%s\n' "$line" >"$scratch/line"
        ! is_json "$scratch/line" || printf '%s\n' "$line" >>"$lines"
    done
    line=$(awk '/"failed":/ { print substr($0, 1, 300); exit }' "$lines")
    [ -z "$line" ] || failed "$line"
    [ ! -s "$lines" ] || awk 'BEGIN { print "[" } { printf("%s%s", NR > 1 ? ",\n" : "", $0) } END { print "\n]" }' "$lines" >"$scratch/json/nanochat"
}
part_counters() {
    local sizes=(--depth 12 --rows 8)
    [ "$device" != emulated ] || { skip "ncu is for a GPU"; return; }
    tool ncu || { skip "there is no ncu"; return; }
    [ ${#toy[@]} -eq 0 ] || sizes=()
    # The first launch of each at the widths of d12; then it need not go on.
    step "$part_until" "$tool" --clock-control none --kill yes --launch-count 5 \
        --kernel-id '::regex:^(attention_128|attention_keys_128|mix_norm_warp|relu2|cross_entropy_gradient)$:1' \
        --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy --section WarpStateStats --section LaunchStats \
        "$bin/gpu_step" --device "$device" ${toy[@]+"${toy[@]}"} --once ${sizes[@]+"${sizes[@]}"}
    # ncu ends the program, which is no failure if it had what it wanted.
    if awk '/==PROF== Profiling/ { n++ } END { exit n < 5 }' "$log"; then
        [ "${verdict[$part]:-}" != FAILED ] || verdict[$part]="" reason[$part]=""
    elif [ -z "${verdict[$part]:-}" ]; then
        failed "ncu counted $(awk '/==PROF== Profiling/ { n++ } END { print n + 0 }' "$log") kernels of 5"
    fi
}
part_sanitizer() {
    local what until
    [ "$device" != emulated ] || { skip "compute-sanitizer is for a GPU; the emulator checks every access by itself"; return; }
    tool compute-sanitizer || { skip "there is no compute-sanitizer"; return; }
    for what in memcheck racecheck; do
        tell
        until=$part_until
        [ "$what" = racecheck ] || until=$((now + (part_until - now) / 2))
        step "$until" \
            "$tool" --tool "$what" --error-exitcode 9 --print-limit 20 --report-api-errors no "$bin/gpu_step" --device "$device" ${toy[@]+"${toy[@]}"} --once
    done
}
part_nccl() {
    [ "$device" != emulated ] || { skip "NCCL joins GPUs"; return; }
    step "$part_until" "$bin/nccl_one" --device "$device" --json "$scratch/json/nccl" && return
    # A machine without it is no failure.
    [ "$code" != 3 ] || skip "$(awk '/^skipped: / { sub(/^skipped: /, ""); print; exit }' "$log")"
}
part_same_bits() {
    local test=the_gpu_gives_the_emulators_bits around=(env "FARTHING_TEST_DEVICES=$device")
    # Where there is no GPU, the comparison itself is tested.
    [ "$device" != emulated ] || { test=two_emulators_give_the_same_bits around=(env); }
    ! warming || around+=(nice) # It takes every core, and nanochat's compilation is waited for.
    if step "$part_until" "${around[@]}" "$bin/same_bits" --exact "$test" --nocapture; then
        awk '/^test result: ok\. 1 passed/ { any = 1 } END { exit !any }' "$log" || failed "no test $test is in bin/same_bits"
    fi
    awk '
        /: (exact|approximate), [0-9]+ launches, [0-9]+ differ, in [0-9]+ bytes$/ {
            line = $0; sub(/^.* \.\.\. /, "", line)
            split(line, word, /[ :,]+/)
            printf "%s{\"name\": \"%s\", \"exact\": %s, \"launches\": %s, \"differ\": %s, \"bytes\": %s}", n++ ? ",\n" : "{\"kernels\": [\n", word[1],
                word[2] == "exact" ? "true" : "false", word[3], word[5], word[8]
        }
        END { if (n) print "\n]}" }' "$log" >"$scratch/json/same_bits"
}

# ---- the run
no_gpu=""
close() { # Everything ends, the summary stands.
    local name
    trap '' TERM INT HUP
    [ -z "$step_pid" ] || finish "$mark-step" "$step_pid"
    finish "$mark-warm" "$warm_pid"
    if [ -n "$current" ]; then
        verdict[$current]=stopped reason[$current]=$1
        capped "$log" "$scratch/capped" && { printf '\n==== %s\n' "$current"; cat "$scratch/capped"; } >>"$results/parts.log"
    fi
    ended=$1
    rm -f "$results/running.log"
    write_summary
    printf '\n'
    cat "$results/summary.md"
    # Once more, since the end of what is long is what stays in sight.
    printf '\n'
    for name in "${order[@]}"; do
        state "$name"
        printf '%s: %s%s\n' "$name" "$state" "${why:+: $why}"
    done
    rm -rf "$scratch"
}
trap 'close "run.sh was told to stop (TERM)"; exit 143' TERM
trap 'close "run.sh was told to stop (INT)"; exit 130' INT
trap 'close "run.sh was told to stop (HUP)"; exit 129' HUP

# Milliseconds here for one second of the plan.
scale=$((deadline / total))
# run_part NAME
run_part() {
    local own from future=0 name limit
    part=$1
    current=$part
    log=$scratch/$part.log
    : >"$log"
    own=$((plan[$part] * scale))
    for name in "${order[@]}"; do
        [ "$name" = "$part" ] || [ -n "${verdict[$name]:-}" ] || future=$((future + plan[$name] * scale))
    done
    tell
    from=$now
    limit=$((deadline - now - future))
    [ "$limit" -le $((2 * own)) ] || limit=$((2 * own))
    # Whether there is a GPU at all is worth a wait, also where the time is short.
    [ "$part" != environment ] || [ "$limit" -ge 10000 ] || limit=10000
    if [ "$limit" -lt $((own / 4)) ]; then
        in_s $((deadline - now))
        skip "only $REPLY s are left of $seconds"
    else
        part_until=$((now + limit))
        in_s "$limit"
        progress "$part: begins, at most $REPLY s"
        if [ -n "${timed[$part]:-}" ] && warming; then
            # One that is stopped keeps its memory on the GPU, of which d24 wants all.
            [ "$part" != d24 ] || warm_end again
            warm_stop
        fi
        tell
        case $part in
            environment) part_environment ;;
            conformance) part_conformance ;;
            large) part_large ;;
            ceilings) part_ceilings ;;
            check) part_check ;;
            d12) part_d12 ;;
            d24) part_d24 ;;
            nanochat) part_nanochat ;;
            counters) part_counters ;;
            sanitizer) part_sanitizer ;;
            nccl) part_nccl ;;
            same_bits) part_same_bits ;;
        esac
        [ -z "$warm_stopped" ] || warm_go_on
    fi
    tell
    in_s $((now - from))
    took[$part]=$REPLY
    verdict[$part]=${verdict[$part]:-passed}
    case $part in
        d24) take d24 && take d24_rows_32 ;;
        *) take "$part" ;;
    esac
    capped "$log" "$scratch/capped" && { printf '\n==== %s\n' "$part"; cat "$scratch/capped"; } >>"$results/parts.log"
    rm -f "$results/running.log"
    current=""
    progress "$part: ${verdict[$part]}${reason[$part]:+: ${reason[$part]}} (${took[$part]} s)"
    write_summary
}

run_part environment
if [ -n "$no_gpu" ]; then
    verdict[environment]=FAILED
    printf 'no usable GPU on this machine: nothing was tested\n' >&2
    cat "$scratch/environment.log" >&2
    close "there is no usable GPU" >/dev/null
    exit 2
fi
# Warm-ups are for nanochat alone, and for a bundle that has it.
case " ${order[*]} " in *" nanochat "*) [ "$device" != emulated ] && [ -e "$nanochat/gpu_nanochat.py" ] || warm_queue=() ;; *) warm_queue=() ;; esac
warm_pump
while :; do
    next=""
    for name in "${order[@]}"; do
        [ -z "${verdict[$name]:-}" ] || continue
        # What times nothing may as well run while nanochat still compiles.
        if [ -z "$next" ]; then
            next=$name
            if [ "$name" != nanochat ] || ! warming; then break; fi
        elif [ "$name" = sanitizer ] || [ "$name" = same_bits ]; then
            next=$name
            note=$'\n'"sanitizer and same_bits ran before nanochat, beside the end of its warm-ups."$'\n'
            break
        fi
    done
    [ -n "$next" ] || break
    run_part "$next"
done
close "the run is over"
status=0
for name in "${order[@]}"; do
    case ${verdict[$name]} in passed | skipped) ;; *) status=1 ;; esac
done
exit "$status"
