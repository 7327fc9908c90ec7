#!/usr/bin/env bash
# Everything that a GPU is to show: right first, then fast, then beside PyTorch.
#
#   benches/gpu.sh [--bin PATH] [--out DIR] [--device cuda:N] [PART...]
#
# Parts, in this order (all of them by default). Each ends within two minutes: what takes longer is ended, and what it had
# measured is kept, as is all that was measured before it.
#   contact     each mechanism by itself on small shapes, in a process of its own that is ended after ten seconds: one line for each
#               (right, wrong, absent, fault or hung), what a failed one said in DIR/contact/; under 90 s in all. What is faulty can be
#               left out (docs/commands.md, "Going on without a mechanism")
#   check       every operation on the GPU against the CPU, bf16 and f32, random shapes, poisoned outputs
#   golden      the golden kit in f32 and in bf16, where it lies in .golden/ (check.py and open/)
#   quickstart  recipes/quickstart.toml on the GPU against the CPU: what is gained, judged by truth
#   kernels     each operation at Llama-3-8B's widths: time, floor, share; on compute capability 9.0 the kernels made for it beside
#               those for every GPU, whatever SELFPLAY_HOPPER says (check compares them as well)
#   reference, sample, score, train    the stages at Llama-3-8B's and Gemma-2B's shapes, by default settings
#   train-least, train-small, train-offload    a step that computes all again; one of small micro-batches; one whose optimizer
#               is the host's, as on a card of 80 GB
#   train-offload-gradients    the same with the blocks' gradients on the host too
#   sample-fp8  sampling with the blocks' weights in FP8
#   sample-fp8-kv    sampling with keys and values in FP8: against `sample`, the lines of long prompts above all
#   rows-1024, rows-2048    sampling with twice and four times as many rows
#   profile-sample, profile-train    where the time of a step goes, kernel by kernel
#   ranks       two and eight GPUs of this machine, or as many as it has: what the links reach through our own collective, a training
#               step at Llama-3-8B's shape with train.zero 0, 1, 2 and 3, and sampling by shards, a process for each GPU. With one
#               GPU, or without trainer/examples/gpu_ranks, it says what it leaves out. train.zero = 0 at 8B wants more than 80 GB
#   peer-reference, peer-sample, peer-score, peer-train    PyTorch on the same work (benches/peers/gpu_peer.py); sampling with 64
#               rows, which transformers gets through
#   table       all of it beside what it must be, and beside the run before (BEFORE, by default benches/runs/2026-11-28-h200)
#
# A GPU, or a driver, that this program has never met: contact alone.
# What is new beside what was before, in under five minutes: train train-least train-small sample profile-train table.
# The host's share with long prompts and in mixed steps, one by one beside begun ahead, in two minutes: sample profile-sample table.
# More rows: rows-1024 rows-2048 table.
# Several GPUs in one command: ranks table (RANKS="2 8" says how many, LAUNCHER=mpirun|torchrun|srun how they are started).
# Hopper's own kernels, old way against new, in three minutes: check kernels table. Whole steps (sample train) use those that the GPU has
# shown to be right and faster, which its first command tries, as a run does; SELFPLAY_HOPPER=none or =all beside it shows what they are worth.
# On a card of 80 GB: check kernels reference train-offload train-offload-gradients sample sample-fp8 sample-fp8-kv score table.
#
# Needs the binary (cargo build --release --features cuda), python3 with torch and transformers for the peers, no network.
# Writes into DIR (default benches/runs/<date>-<gpu>): a file for each part that measures, peers.json, log.txt, summary.txt. No
# checkpoint is written by a bench. Exit status 1 if a part failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=target/release/selfplay out= device=cuda:0 parts=()
while (($#)); do
    case $1 in
    --bin) bin=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    -*) sed -n '2,45p' "${BASH_SOURCE[0]}"; exit 2 ;;
    *) parts+=("$1"); shift ;;
    esac
done
# NVIDIA's libraries may be there as Python packages alone, where the loader does not look.
libraries=$(python3 -c 'import glob, os, sysconfig
found = glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/**/lib*.so*", recursive=True)
print(":".join(sorted({os.path.dirname(file) for file in found})))' 2>/dev/null)
[[ -z $libraries ]] || export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
((${#parts[@]})) || parts=(contact check golden quickstart kernels reference sample score train train-least train-small train-offload train-offload-gradients sample-fp8 sample-fp8-kv rows-1024 rows-2048
    profile-sample profile-train ranks peer-reference peer-sample peer-score peer-train table)
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
limit=${LIMIT:-115}

# part NAME COMMAND…: runs it for two minutes at most, its output on the terminal and in DIR/log.txt.
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

# A run of a few prompts that is killed in the middle of its training and resumed: the same weights as one that is not.
resume_after_a_kill() {
    local folder=$work/resume program
    program=$(realpath "$bin")
    mkdir -p "$folder"
    head -n 32 recipes/quickstart/prompts/iteration_1.jsonl >"$folder/prompts.jsonl"
    cat >"$folder/recipe.toml" <<RECIPE
name = "contact"
iterations = 1
seed = 42
[policy]
model = "$PWD/recipes/quickstart/policy"
[prompts]
splits = ["prompts.jsonl"]
[sample]
num_samples = 4
max_new_tokens = 8
[score]
kind = "gpm"
model = "$PWD/recipes/quickstart/preference_model"
tau = 0.1
[pair]
rule = "best-worst"
[train]
loss = "gpo"
beta = 1.0
optimizer = "rmsprop"
learning_rate = 5e-5
batch_size = 8
epochs = 1
max_length = 128
max_prompt_length = 96
checkpoint_every = 1
RECIPE
    timeout 12 "$program" run "$folder/recipe.toml" -o "$folder/whole" -q --device "$device" || return
    SELFPLAY_FAULT=kill:${KILL_AT:-90} timeout 12 "$program" run "$folder/recipe.toml" -o "$folder/killed" -q --device "$device"
    (($? == 137 || $? == 134)) || { echo "the run was not killed: KILL_AT names an earlier file operation"; return 1; }
    timeout 12 "$program" resume "$folder/killed" -q --device "$device" || return
    cmp "$folder"/{whole,killed}/iteration_01/policy/model.safetensors && echo "right  a killed run resumed has the weights of a whole one"
}

# contact_of NAME FILE: runs one mechanism by itself, what it says into FILE; prints how it went.
contact_of() {
    local status
    if [[ $1 == resume ]]; then
        resume_after_a_kill >"$2" 2>&1
    else
        timeout -k 2 "${CONTACT_LIMIT:-10}" "$bin" bench check --only "$1" --device "$device" >"$2" 2>&1
    fi
    status=$?
    case $status in
    0) grep -oEm1 '^(right|absent)' "$2" || echo fault ;;
    124 | 137) echo hung ;;
    *) grep -oEm1 '^wrong' "$2" || echo fault ;;
    esac
}

# Each mechanism that the program lists, and a resume after a kill; ONLY="NAME NAME" for some of them.
contact() {
    local names name file word remark start tenths faulty=0 begun=$SECONDS
    names=$("$bin" bench check --only) || return 1
    mkdir -p "$out/contact"
    : >"$out/contact.txt"
    for name in $names resume; do
        [[ -z ${ONLY:-} || " $ONLY " == *" $name "* ]] || continue
        file=$out/contact/$name.txt start=$(date +%s%N) word=left remark="no time was left: ONLY=$name $0 contact"
        if ((SECONDS - begun < ${CONTACT_SECONDS:-75})); then
            word=$(contact_of "$name" "$file")
            case $word in
            right | absent) remark=$(sed -nE 's/^(right|absent) .* s  ?//p' "$file") && rm -f "$file" ;;
            *) remark=$(grep -vE '^(right|wrong|absent)' "$file" | head -1 | cut -c1-200) faulty=$((faulty + 1)) ;;
            esac
        fi
        tenths=$((($(date +%s%N) - start) / 100000000))
        printf '%-8s%-30s%4d.%d s  %s\n' "$word" "$name" $((tenths / 10)) $((tenths % 10)) "$remark" | tee -a "$out/contact.txt"
    done
    rmdir "$out/contact" 2>/dev/null
    ((faulty == 0))
}

golden() {
    if [[ ! -f .golden/check.py ]]; then
        echo "no .golden/check.py: the golden kit is not here, left out"
        return 0
    fi
    timeout "$limit" python3 .golden/check.py --bin "$(on_device f32)" >"$work/golden-f32.txt"
    local status=$?
    grep -v '^ok' "$work/golden-f32.txt"
    # The kit's bounds are f32's: in bf16 the largest deviations are shown, and a command that fails is a failure.
    timeout "$limit" python3 .golden/check.py --bin "$(on_device bf16)" >"$work/golden-bf16.txt"
    python3 benches/gpu_report.py golden-bf16 "$work/golden-bf16.txt" && return $status
}

quickstart() {
    local run
    for run in cpu gpu; do
        local where=$device
        [[ $run == cpu ]] && where=cpu
        timeout "$limit" "$bin" run recipes/quickstart.toml -o "$work/$run" -q --device "$where" || return 1
        "$bin" show "$work/$run" --json >"$work/$run.json" || return 1
    done
    python3 benches/gpu_report.py quickstart "$work/cpu.json" "$work/gpu.json"
}

# peer TASK [ARGUMENTS]: one that hangs costs its own figures alone.
peer() {
    local task=$1
    shift
    if timeout "$limit" python3 benches/peers/gpu_peer.py "$task" --device "$device" --repeats "$repeats" \
        --json "$work/peer-$task.json" "$@" "${peer_shapes[@]}" 2>"$work/peer-$task.err"; then
        python3 benches/gpu_report.py keep "$out/peers.json" "$task" "$work/peer-$task.json"
    else
        tail -5 "$work/peer-$task.err"
        return 1
    fi
}

# bench NAME ARGUMENTS…: one part of `selfplay bench`, whose figures go to DIR/NAME.json line by line.
bench() {
    local name=$1
    shift
    part "$name" timeout "$limit" "$bin" bench "$@" --device "$device" --repeats "$repeats" --json "$out/$name.json" \
        "${shapes[@]}"
}

# launched N COMMAND…: N processes of it, by what is there.
launched() {
    local count=$1 by=${LAUNCHER:-}
    shift
    if [[ -z $by ]]; then
        for by in mpirun torchrun srun ''; do
            [[ -n $by ]] && command -v "$by" >/dev/null && break
        done
    fi
    case $by in
    mpirun) mpirun --allow-run-as-root --oversubscribe -n "$count" "$@" ;;
    torchrun) torchrun --no-python --standalone --nproc-per-node "$count" "$@" ;;
    srun) srun -n "$count" "$@" ;;
    *) echo "no mpirun, torchrun or srun is here"; return 1 ;;
    esac
}

# sample_by_shards N: as many processes, one for each GPU, each at its own shard; their rates go to DIR/ranks-N-sample.json.
sample_by_shards() {
    local count=$1 gpu status=0 pids=()
    for ((gpu = 0; gpu < count; gpu++)); do
        timeout "$limit" "$bin" bench sample --device "cuda:$gpu" --repeats "$repeats" --json "$work/sample-$gpu.json" \
            "${shapes[@]}" >"$work/sample-$gpu.txt" 2>&1 &
        pids+=($!)
    done
    for gpu in "${!pids[@]}"; do
        wait "${pids[gpu]}" || { status=1; tail -3 "$work/sample-$gpu.txt"; }
    done
    python3 benches/gpu_report.py ranks-sample "$out/ranks-$count-sample.json" "$out/sample.json" \
        $(seq -f "$work/sample-%g.json" 0 $((count - 1))) && return $status
}

ranks_bin=${RANKS_BIN:-target/release/examples/gpu_ranks}

# Everything about several GPUs. Each piece has a time limit of its own, and what it measured stays.
ranks() {
    local have count stage
    have=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | wc -l)
    for count in ${RANKS:-2 8}; do
        if ((count > have)); then
            echo "left out with $count GPUs: collectives, training steps by train.zero, sampling by shards; there are $have"
            continue
        fi
        part "ranks-$count-sample" sample_by_shards "$count"
        if [[ ! -x $ranks_bin ]]; then
            echo "left out with $count GPUs: collectives, training steps by train.zero; there is no $ranks_bin (its head says how to build it)"
            continue
        fi
        part "ranks-$count-collective" launched "$count" timeout "$limit" "$ranks_bin" collective 1024 "$out/ranks-$count-collective.json"
        for stage in 0 1 2 3; do
            part "ranks-$count-zero$stage" launched "$count" timeout "$limit" "$ranks_bin" step "$stage" 64 "${RANKS_SHAPE:-llama-3-8b}" \
                "$out/ranks-$count-zero$stage.json"
        done
    done
}

for name in "${parts[@]}"; do
    case $name in
    ranks) ranks ;;
    contact) part contact contact ;;
    check) part check timeout "$limit" "$bin" bench check --device "$device" "${shapes[@]}" ;;
    golden | quickstart) part "$name" "$name" ;;
    kernels | reference | sample | score) bench "$name" "$name" ;;
    train) bench train train --pairs 32 ;;
    train-least) bench train-least train --pairs 32 --recompute true ;;
    train-small) bench train-small train --pairs 32 --micro-batch-tokens 4096 ;;
    train-offload) bench train-offload train --offload optimizer ;;
    train-offload-gradients) bench train-offload-gradients train --offload optimizer+gradients ;;
    sample-fp8) bench sample-fp8 sample --fp8 ;;
    sample-fp8-kv) bench sample-fp8-kv sample --fp8-kv ;;
    rows-1024 | rows-2048) bench "$name" sample --rows "${name#rows-}" ;;
    profile-sample) bench profile-sample sample --profile ;;
    profile-train) bench profile-train train --profile --pairs 16 ;;
    peer-sample) part "$name" peer sample --rows 64 ;;
    peer-reference | peer-score | peer-train) part "$name" peer "${name#peer-}" ;;
    table) part table python3 benches/gpu_report.py table "$out" "${BEFORE:-benches/runs/2026-11-28-h200}" ;;
    *) echo "no part is called $name"; exit 2 ;;
    esac
done
if ((${#failed[@]})); then
    printf '\nFAILED: %s\n' "${failed[*]}" | tee -a "$out/log.txt"
    exit 1
fi
