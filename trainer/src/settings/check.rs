//! What makes a value of `[train]` wrong.

use selfplay_records::Problems;

use super::{LossKind, MicroBatchTokens, OptimizerKind, ReferenceRule, TrainSettings};
use crate::loss::{LossKey, needs_reference};

impl TrainSettings {
    /// Every wrong value at once, in the order of the keys; empty when all is well. Keys are without their section
    /// (`beta`, `lora.rank`), which may be `[train]`, `[sft]` or `[preference]`.
    pub fn validate(&self) -> Problems {
        let mut found = Problems::default();
        self.check_loss(&mut found);
        self.check_optimizer(&mut found);
        self.check_schedule(&mut found);
        self.check_batches(&mut found);
        if let Some(lora) = &self.lora {
            found.extend(lora.validate().within("lora"));
        }
        found
    }

    fn check_loss(&self, found: &mut Problems) {
        let loss = self.loss;
        found.refuse(!positive(self.beta), "beta", self.beta, "a finite number above 0");
        if let Some(clamp) = self.target_clamp {
            found.refuse(!positive(clamp), "target_clamp", clamp, "a finite number above 0, or \"off\"");
            found.refuse(
                !loss.reads(LossKey::TargetClamp),
                "target_clamp",
                clamp,
                format!(
                    "\"off\" with loss = \"{loss}\": only {} have a target to clamp",
                    LossKind::readers(LossKey::TargetClamp)
                ),
            );
        }
        found.refuse(
            !(0.0..0.5).contains(&self.label_smoothing),
            "label_smoothing",
            self.label_smoothing,
            "a number from 0 to below 0.5",
        );
        found.refuse(
            self.label_smoothing != 0.0 && !loss.reads(LossKey::LabelSmoothing),
            "label_smoothing",
            self.label_smoothing,
            format!(
                "0 with loss = \"{loss}\": only {} smooth labels",
                LossKind::readers(LossKey::LabelSmoothing)
            ),
        );
        refuse_negative(found, "sft_weight", self.sft_weight);
        found.refuse(
            self.sft_weight != 0.0 && loss == LossKind::Orpo,
            "sft_weight",
            self.sft_weight,
            "0 with loss = \"orpo\", which holds the chosen response's NLL already",
        );
        refuse_negative(found, "simpo_gamma", self.simpo_gamma);
        self.check_policies(found);
        self.example_keys().check(found);
    }

    /// The keys that say which policies the loss holds the new one against, and how.
    fn check_policies(&self, found: &mut Problems) {
        let loss = self.loss;
        found.refuse(
            self.reference != ReferenceRule::Previous && !needs_reference(loss),
            "reference",
            self.reference,
            format!("left out with loss = \"{loss}\", which has no reference"),
        );
        let readers = LossKind::readers(LossKey::Inpo);
        let is_read = loss.reads(LossKey::Inpo);
        let mut number = |key: &str, value: Option<f64>, wrong: fn(f64) -> bool, want: &str| {
            let Some(value) = value else { return };
            found.refuse(wrong(value), key, value, want);
            found.refuse(
                !is_read,
                key,
                value,
                format!("left out with loss = \"{loss}\": only {readers} reads it"),
            );
        };
        number("eta", self.eta, |eta| !positive(eta), "a finite number above 0");
        number("rho", self.rho, |rho| !(0.0..=1.0).contains(&rho), "a number from 0 to 1");
        number("history", self.history.map(|count| count as f64), |count| count < 1.0, "1 or more");
        if let Some(weights) = &self.history_weights {
            let shown = format!("{weights:?}");
            let history = self.history();
            found.refuse(
                weights.len() != history || !weights.iter().all(|&weight| positive(weight)),
                "history_weights",
                &shown,
                format!("a finite number above 0 for each of history = {history} policies"),
            );
            found.refuse(
                !is_read,
                "history_weights",
                &shown,
                format!("left out with loss = \"{loss}\": only {readers} reads it"),
            );
        }
    }

    fn check_optimizer(&self, found: &mut Problems) {
        let share = "a number from 0 to below 1";
        let inside = |x: f64| (0.0..1.0).contains(&x);
        found.refuse(!inside(self.rmsprop_alpha), "rmsprop_alpha", self.rmsprop_alpha, share);
        found.refuse(!positive(self.epsilon), "epsilon", self.epsilon, "a finite number above 0");
        found.refuse(!inside(self.momentum), "momentum", self.momentum, share);
        found.refuse(!inside(self.adam_beta1), "adam_beta1", self.adam_beta1, share);
        found.refuse(!inside(self.adam_beta2), "adam_beta2", self.adam_beta2, share);
        if self.optimizer != OptimizerKind::RmsProp {
            let why = if self.optimizer == OptimizerKind::RmsProp8Bit {
                "has no form in eight bits"
            } else {
                "is RMSProp's"
            };
            let only = format!("{why}: leave it out with optimizer = \"{}\"", self.optimizer);
            found.refuse(self.momentum != 0.0, "momentum", self.momentum, format!("0: momentum {only}"));
            found.refuse(self.centered, "centered", self.centered, format!("false: centered {only}"));
        }
        refuse_negative(found, "weight_decay", self.weight_decay);
        found.refuse(
            !not_negative(self.max_grad_norm),
            "max_grad_norm",
            self.max_grad_norm,
            "a finite number above 0, or 0 for no clipping",
        );
    }

    fn check_schedule(&self, found: &mut Problems) {
        refuse_negative(found, "learning_rate", self.learning_rate);
        found.refuse(
            !(0.0..=1.0).contains(&self.warmup_ratio),
            "warmup_ratio",
            self.warmup_ratio,
            "a number from 0 to 1",
        );
        found.refuse(self.epochs == 0, "epochs", self.epochs, "1 or more");
        if let Some(scheduled) = self.schedule_epochs {
            found.refuse(
                scheduled < self.epochs.max(1),
                "schedule_epochs",
                scheduled,
                format!(
                    "at least epochs ({}): past the schedule's end the learning rate is 0",
                    self.epochs.max(1)
                ),
            );
        }
        found.refuse(self.max_steps == Some(0), "max_steps", 0, "1 or more, or \"off\"");
    }

    fn check_batches(&self, found: &mut Problems) {
        let one_token = "1 token or more";
        found.refuse(self.batch_size == 0, "batch_size", self.batch_size, "1 pair or more");
        let is_none = self.micro_batch_tokens == MicroBatchTokens::Most(0);
        found.refuse(is_none, "micro_batch_tokens", self.micro_batch_tokens, "1 token or more, or \"auto\"");
        found.refuse(self.max_length < 2, "max_length", self.max_length, "2 tokens or more");
        found.refuse(self.max_prompt_length == 0, "max_prompt_length", self.max_prompt_length, one_token);
        // The default is allowed with any max_length: a pair of which it leaves nothing is found when the rows are read.
        found.refuse(
            self.max_prompt_length >= self.max_length
                && self.max_prompt_length != Self::default().max_prompt_length,
            "max_prompt_length",
            self.max_prompt_length,
            format!("below max_length ({}), or no token of a response is left", self.max_length),
        );
    }
}

fn positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

fn not_negative(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}

fn refuse_negative(found: &mut Problems, key: &str, value: f64) {
    found.refuse(!not_negative(value), key, value, "a finite number of 0 or more");
}
