#!/usr/bin/env bash
# Everything that a GPU is to show: right first, then fast, then beside PyTorch.
#
#   benches/gpu.sh [--bin PATH] [--out DIR] [--device cuda:N] [PART...]
#
# Parts, in this order (all of them by default; meant for nine minutes on an H200, where it has not run yet):
#   check       every operation on the GPU against the CPU, bf16 and f32, random shapes, poisoned outputs
#   golden      the golden kit in f32 and in bf16, where it lies in .golden/ (check.py and open/)
#   quickstart  recipes/quickstart.toml on the GPU against the CPU: what is gained, judged by truth
#   kernels     each operation at Llama-3-8B's widths: time, floor, share
#   reference, sample, score, train    the stages at Llama-3-8B's and Gemma-2B's shapes
#   peers       PyTorch on the same work (benches/peers/gpu_peer.py)
#   table       all of it beside what it must be
#
# On a machine where a command may run ten minutes at most: check golden quickstart kernels, then reference sample score
# train, then peers table, all with the same --out.
#
# Needs the binary (cargo build --release --features cuda), python3 with torch and transformers for the peers, no network.
# Writes eight files at most into DIR (default benches/runs/<date>-<gpu>): one for each of kernels, reference, sample, score
# and train, peers.json, log.txt, summary.txt. No checkpoint is written by a bench. Exit status 1 if a part failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=target/release/selfplay out= device=cuda:0 parts=()
while (($#)); do
    case $1 in
    --bin) bin=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    -*) sed -n '2,20p' "${BASH_SOURCE[0]}"; exit 2 ;;
    *) parts+=("$1"); shift ;;
    esac
done
# NVIDIA's libraries may be there as Python packages alone, where the loader does not look.
libraries=$(python3 -c 'import glob, os, sysconfig
found = glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/**/lib*.so*", recursive=True)
print(":".join(sorted({os.path.dirname(file) for file in found})))' 2>/dev/null)
[[ -z $libraries ]] || export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
((${#parts[@]})) || parts=(check golden quickstart kernels reference sample score train peers table)
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1 | sed 's/^NVIDIA *//' | tr 'A-Z ' 'a-z-')
out=${out:-benches/runs/$(date +%F)-${gpu:-$device}}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A shape for machines without a large GPU: SHAPES="--model random:llama-15m --preference-model random:llama-15m --pairs 4"
read -ra shapes <<<"${SHAPES:-}"
read -ra peer_shapes <<<"${PEER_SHAPES:-}"
repeats=${REPEATS:-3}
failed=()

# part NAME COMMAND…: runs it, its output on the terminal and in DIR/log.txt.
part() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name" | tee -a "$out/log.txt"
    if "$@" 2>&1 | tee -a "$out/log.txt"; then
        printf '== %s: %d s\n' "$name" $((SECONDS - start)) | tee -a "$out/log.txt"
    else
        printf '== %s: FAILED after %d s\n' "$name" $((SECONDS - start)) | tee -a "$out/log.txt"
        failed+=("$name")
    fi
}

# A program that is the binary on the device, in a dtype: what the golden kit calls.
on_device() {
    cat >"$work/selfplay-$1" <<WRAPPER
#!/usr/bin/env bash
exec "$(realpath "$bin")" "\$@" --device $device --set policy.dtype=$1 --set score.dtype=$1
WRAPPER
    chmod +x "$work/selfplay-$1"
    echo "$work/selfplay-$1"
}

golden() {
    if [[ ! -f .golden/check.py ]]; then
        echo "no .golden/check.py: the golden kit is not here, left out"
        return 0
    fi
    python3 .golden/check.py --bin "$(on_device f32)" >"$work/golden-f32.txt"
    local status=$?
    grep -v '^ok' "$work/golden-f32.txt"
    # The kit's bounds are f32's: in bf16 the largest deviations are shown, and a command that fails is a failure.
    python3 .golden/check.py --bin "$(on_device bf16)" >"$work/golden-bf16.txt"
    python3 benches/gpu_report.py golden-bf16 "$work/golden-bf16.txt" && return $status
}

quickstart() {
    local run
    for run in cpu gpu; do
        local where=$device
        [[ $run == cpu ]] && where=cpu
        "$bin" run recipes/quickstart.toml -o "$work/$run" -q --device "$where" || return 1
        "$bin" show "$work/$run" --json >"$work/$run.json" || return 1
    done
    python3 benches/gpu_report.py quickstart "$work/cpu.json" "$work/gpu.json"
}

peers() {
    local task status=0
    for task in reference sample score train; do
        # One that hangs costs its own figures alone.
        if timeout 180 python3 benches/peers/gpu_peer.py $task --device "$device" --repeats "$repeats" \
            --json "$work/peer-$task.json" "${peer_shapes[@]}" 2>"$work/peer-$task.err"; then
            python3 benches/gpu_report.py keep "$out/peers.json" $task "$work/peer-$task.json"
        else
            tail -5 "$work/peer-$task.err"
            status=1
        fi
    done
    return $status
}

for name in "${parts[@]}"; do
    case $name in
    check) part check "$bin" bench check --device "$device" "${shapes[@]}" ;;
    golden | quickstart | peers) part "$name" "$name" ;;
    kernels | reference | sample | score | train)
        part "$name" "$bin" bench "$name" --device "$device" --repeats "$repeats" --json "$out/$name.json" "${shapes[@]}"
        ;;
    table) part table python3 benches/gpu_report.py table "$out" ;;
    *) echo "no part is called $name"; exit 2 ;;
    esac
done
if ((${#failed[@]})); then
    printf '\nFAILED: %s\n' "${failed[*]}" | tee -a "$out/log.txt"
    exit 1
fi
