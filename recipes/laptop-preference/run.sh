#!/bin/sh
# Both preference models of real comparisons, and what they are worth on held-out ones.
#   recipes/laptop-preference/run.sh SELFPLAY MODEL FILE...     FILEs in hh-rlhf's layout; into runs/laptop-preference*
# Killed, it goes on where it was when it is started again.
set -eu
selfplay=$1 model=$2
shift 2
out=runs/laptop-preference
python3 recipes/laptop-preference/split.py $out 0.25 "$@"
for kind in gpm bt; do
    case $kind in gpm) name=gpm ;; bt) name=bradley-terry ;; esac
    if [ -d "$out-$kind" ]; then
        "$selfplay" resume "$out-$kind"
    else
        "$selfplay" run "recipes/laptop-preference-$kind.toml" -o "$out-$kind" --set "chain.$kind.policy.model=$model"
    fi
    for form in table json; do
        [ $form = json ] && flag=--json || flag=
        "$selfplay" eval-preference --preference-model "$out-$kind/$kind/preference_model" --pairs $out/held_out.jsonl \
            --set score.kind=$name -q $flag >"$out/$kind.$form"
    done
    cat "$out/$kind.table"
done
