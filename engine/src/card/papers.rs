//! Whose methods a model was made by: BibTeX of losses, preference models and adapters. docs/algorithms.md has the equations.

use selfplay_trainer::LossKind;

/// A paper.
struct Paper {
    key: &'static str,
    title: &'static str,
    author: &'static str,
    year: u16,
    arxiv: &'static str,
}

const fn paper(
    key: &'static str,
    title: &'static str,
    author: &'static str,
    year: u16,
    arxiv: &'static str,
) -> Paper {
    Paper { key, title, author, year, arxiv }
}

const SPPO: Paper = paper(
    "wu2024sppo",
    "Self-Play Preference Optimization for Language Model Alignment",
    "Wu, Yue and Sun, Zhiqing and Yuan, Huizhuo and Ji, Kaixuan and Yang, Yiming and Gu, Quanquan",
    2024,
    "2405.00675",
);
const GPM: Paper = paper(
    "zhang2024gpm",
    "Beyond Bradley-Terry Models: A General Preference Model for Language Model Alignment",
    "Zhang, Yifan and Zhang, Ge and Wu, Yue and Xu, Kangping and Gu, Quanquan",
    2024,
    "2410.02197",
);
const DPO: Paper = paper(
    "rafailov2023dpo",
    "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    "Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and Ermon, Stefano and Manning, Christopher D. and Finn, Chelsea",
    2023,
    "2305.18290",
);
const LORA: Paper = paper(
    "hu2021lora",
    "LoRA: Low-Rank Adaptation of Large Language Models",
    "Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen, Weizhu",
    2021,
    "2106.09685",
);
const QLORA: Paper = paper(
    "dettmers2023qlora",
    "QLoRA: Efficient Finetuning of Quantized LLMs",
    "Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke",
    2023,
    "2305.14314",
);

/// What a model was made by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Methods {
    /// Of pairs.
    pub(super) loss: Option<LossKind>,
    /// A general preference model was trained, or compared.
    pub(super) preference: bool,
    pub(super) adapter: bool,
    pub(super) four_bits: bool,
}

impl Methods {
    /// The papers in BibTeX.
    pub(super) fn bibtex(self) -> String {
        let mut papers: Vec<Paper> = self.loss.map(of_loss).into_iter().collect();
        for (holds, paper) in [(self.preference, GPM), (self.adapter, LORA), (self.four_bits, QLORA)] {
            if holds && papers.iter().all(|known| known.key != paper.key) {
                papers.push(paper);
            }
        }
        papers.iter().map(Paper::bibtex).collect()
    }
}

impl Paper {
    fn bibtex(&self) -> String {
        let Self { key, title, author, year, arxiv } = self;
        format!(
            "@misc{{{key},\n  title = {{{title}}},\n  author = {{{author}}},\n  year = {{{year}}},\n  \
             eprint = {{{arxiv}}},\n  archivePrefix = {{arXiv}},\n}}\n"
        )
    }
}

fn of_loss(loss: LossKind) -> Paper {
    match loss {
        LossKind::Sppo | LossKind::SppoSingle | LossKind::SppoHard => SPPO,
        LossKind::Gpo | LossKind::LnGpo => GPM,
        LossKind::Dpo => DPO,
        LossKind::Ipo => paper(
            "azar2023ipo",
            "A General Theoretical Paradigm to Understand Learning from Human Preferences",
            "Azar, Mohammad Gheshlaghi and others",
            2023,
            "2310.12036",
        ),
        LossKind::Hinge => paper(
            "zhao2023slichf",
            "SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
            "Zhao, Yao and others",
            2023,
            "2305.10425",
        ),
        LossKind::Kto | LossKind::KtoPair => paper(
            "ethayarajh2024kto",
            "KTO: Model Alignment as Prospect Theoretic Optimization",
            "Ethayarajh, Kawin and others",
            2024,
            "2402.01306",
        ),
        LossKind::BestOfK => paper(
            "dong2023raft",
            "RAFT: Reward rAnked FineTuning for Generative Foundation Model Alignment",
            "Dong, Hanze and others",
            2023,
            "2304.06767",
        ),
        // GPRL's surrogate is GRPO's; its own paper was at hand in digests alone, without its authors.
        LossKind::Grpo | LossKind::Gprl => paper(
            "shao2024deepseekmath",
            "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
            "Shao, Zhihong and others",
            2024,
            "2402.03300",
        ),
        LossKind::Simpo => paper(
            "meng2024simpo",
            "SimPO: Simple Preference Optimization with a Reference-Free Reward",
            "Meng, Yu and Xia, Mengzhou and Chen, Danqi",
            2024,
            "2405.14734",
        ),
        LossKind::Orpo => paper(
            "hong2024orpo",
            "ORPO: Monolithic Preference Optimization without Reference Model",
            "Hong, Jiwoo and Lee, Noah and Thorne, James",
            2024,
            "2403.07691",
        ),
        LossKind::Robust => paper(
            "chowdhury2024robust",
            "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
            "Chowdhury, Sayak Ray and Kini, Anush and Natarajan, Nagarajan",
            2024,
            "2403.00409",
        ),
        LossKind::ExoPair => paper(
            "ji2024exo",
            "Towards Efficient Exact Optimization of Language Model Alignment",
            "Ji, Haozhe and others",
            2024,
            "2402.00856",
        ),
        LossKind::NcaPair => paper(
            "chen2024nca",
            "Noise Contrastive Alignment of Language Models with Explicit Rewards",
            "Chen, Huayu and others",
            2024,
            "2402.05369",
        ),
        LossKind::BcoPair => paper(
            "jung2024bco",
            "Binary Classifier Optimization for Large Language Model Alignment",
            "Jung, Seungjae and others",
            2024,
            "2404.04656",
        ),
        LossKind::ApoZero | LossKind::ApoDown => paper(
            "doosterlinck2024apo",
            "Anchored Preference Optimization and Contrastive Revisions: Addressing Underspecification in Alignment",
            "D'Oosterlinck, Karel and others",
            2024,
            "2408.06266",
        ),
        LossKind::DpoNorm => paper(
            "lambert2024tulu3",
            "Tulu 3: Pushing Frontiers in Open Language Model Post-Training",
            "Lambert, Nathan and others",
            2024,
            "2411.15124",
        ),
        LossKind::Discopop => paper(
            "lu2024discopop",
            "Discovering Preference Optimization Algorithms with and for Large Language Models",
            "Lu, Chris and others",
            2024,
            "2406.08414",
        ),
        LossKind::Inpo => paper(
            "zhang2024inpo",
            "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning",
            "Zhang, Yuheng and others",
            2024,
            "2407.00617",
        ),
        LossKind::OnlineIpo => paper(
            "zhou2025egpo",
            "Extragradient Preference Optimization",
            "Zhou, Runlong and others",
            2025,
            "2503.08942",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_has_its_paper_and_none_stands_twice() {
        for loss in LossKind::ALL {
            let methods = Methods { loss: Some(loss), preference: true, adapter: true, four_bits: true };
            let text = methods.bibtex();
            let keys: Vec<&str> = text.lines().filter(|line| line.starts_with("@misc")).collect();
            let mut once = keys.clone();
            once.dedup();
            assert!(keys.len() >= 3 && keys == once, "{keys:?}");
            let arxiv = of_loss(loss).arxiv;
            assert!(text.contains(arxiv) && arxiv.len() == 10, "{arxiv}");
        }
    }
}
