"""The module layouts of the repositories that the drop-ins are for: their file names, functions and call sites.

Written for these tests, in words of our own: what a file computes comes from `dropin_checks`, what it is called and who
calls it is as there. Bodies that have no share in the recipe are left out.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

GLORIA = {
    "gloria/__init__.py": """
        from . import builder

        from .gloria import *
    """,
    "gloria/builder.py": """
        from . import models
        from . import loss


        def build_gloria_model(cfg):
            return models.gloria_model.GLoRIA(cfg)
    """,
    "gloria/gloria.py": """
        def get_similarities(gloria_model, imgs, txts):
            return gloria_model.get_local_similarities(imgs, txts["words"], txts["cap_lens"])
    """,
    "gloria/loss/__init__.py": "from . import gloria_loss\n",
    "gloria/loss/gloria_loss.py": """
        import torch
        from dropin_checks import plain_attention, plain_cosines, plain_cross_entropies, plain_local_scores


        def cosine_similarity(x1, x2, dim=1, eps=1e-8):
            return torch.cosine_similarity(x1, x2, dim, eps).squeeze()


        def attention_fn(query, context, temp1):
            pairs = zip(query, context.flatten(2), strict=True)
            each = [torch.stack(made) for made in zip(*[plain_attention(w, v, temp1) for w, v in pairs], strict=True)]
            return each[0], each[1].unflatten(2, context.shape[2:])


        def global_loss(cnn_code, rnn_code, eps=1e-8, temp3=10.0):
            return [each.mean() for each in plain_cross_entropies(temp3 * plain_cosines(cnn_code, rnn_code))]


        def local_loss(img_features, words_emb, cap_lens, temp1=4.0, temp2=5.0, temp3=10.0, agg="sum"):
            scores = plain_local_scores(img_features, words_emb, cap_lens, temp1, temp2, agg)
            att_maps = [
                attention_fn(words_emb[i : i + 1, :, :length], img_features[i : i + 1], temp1)[1]
                for i, length in enumerate(cap_lens)
            ]
            return *[each.mean() for each in plain_cross_entropies(temp3 * scores)], att_maps
    """,
    "gloria/models/__init__.py": """
        from . import gloria_model
        from . import retrival_model
    """,
    "gloria/models/gloria_model.py": """
        import torch

        from .. import loss


        class GLoRIA(torch.nn.Module):
            def __init__(self, cfg):
                super(GLoRIA, self).__init__()
                self.local_loss = loss.gloria_loss.local_loss
                self.global_loss = loss.gloria_loss.global_loss
                self.temp1, self.temp2, self.temp3 = cfg

            def calc_loss(self, img_emb_l, img_emb_g, text_emb_l, text_emb_g, sents):
                cap_lens = [len([w for w in sent if not w.startswith("[")]) + 1 for sent in sents]
                l_loss0, l_loss1, attn_maps = self.local_loss(
                    img_emb_l, text_emb_l, cap_lens, temp1=self.temp1, temp2=self.temp2, temp3=self.temp3
                )
                g_loss0, g_loss1 = self.global_loss(img_emb_g, text_emb_g, temp3=self.temp3)
                return l_loss0 + l_loss1 + g_loss0 + g_loss1, attn_maps

            def get_local_similarities(self, img_emb_l, text_emb_l, cap_lens):
                similarities = []
                for i in range(len(text_emb_l)):
                    word = text_emb_l[i, :, 1 : cap_lens[i] + 1].repeat(len(img_emb_l), 1, 1)
                    weiContext, attn = loss.gloria_loss.attention_fn(word, img_emb_l, 4.0)
                    row_sim = loss.gloria_loss.cosine_similarity(word, weiContext)
                    similarities.append(torch.log(torch.exp(5.0 * row_sim).max(dim=1, keepdim=True).values))
                return torch.cat(similarities, 1).detach().cpu()
    """,
    "gloria/models/retrival_model.py": """
        import numpy as np
        import torch

        from ..loss.gloria_loss import attention_fn, cosine_similarity


        class Retriver:
            def __init__(self, gloria):
                self.gloria = gloria

            def retrieve(self, img_emb_l, targets, cap_lens):
                return self._compute_local_similarity(
                    img_emb_l, targets, cap_lens, self.gloria.temp1, self.gloria.temp2, self.gloria.temp3
                )

            def _compute_local_similarity(
                self, img_features, words_emb, cap_lens, temp1=4.0, temp2=5.0, temp3=10.0, agg="sum"
            ):
                similarities = []
                for i in range(words_emb.shape[0]):
                    word = words_emb[i, :, 1 : cap_lens[i] + 1].unsqueeze(0)
                    weiContext, _ = attention_fn(word, img_features, temp1)
                    row_sim = torch.exp(temp2 * cosine_similarity(word, weiContext))
                    row_sim = row_sim.sum() if agg == "sum" else row_sim.mean()
                    similarities.append(torch.log(row_sim).item())
                return np.array(similarities) * temp3
    """,
}

_CONFIG = """
    from types import SimpleNamespace

    smooth = SimpleNamespace(GAMMA1=3.0, GAMMA2=2.0, GAMMA3=7.0, LAMBDA=1.5)
    cfg = SimpleNamespace(CUDA=False, TRAIN=SimpleNamespace(SMOOTH=smooth))
"""

_ATTENTION = """
    import torch
    from dropin_checks import plain_attention


    def func_attention(query, context, gamma1):
        pairs = zip(query, context.flatten(2), strict=True)
        each = [torch.stack(made) for made in zip(*[plain_attention(w, v, gamma1) for w, v in pairs], strict=True)]
        return each[0], each[1].unflatten(2, context.shape[2:])
"""

_LOSSES = """
    import math

    import torch
    from dropin_checks import plain_cosines, plain_cross_entropies, plain_local_scores
    from {config} import cfg

    from {attention} import func_attention


    def cosine_similarity(x1, x2, dim=1, eps=1e-8):
        return torch.cosine_similarity(x1, x2, dim, eps).squeeze()


    def _masked(scores, class_ids):
        if class_ids is None:
            return scores
        same = torch.tensor(class_ids[:, None] == class_ids) & ~torch.eye(len(scores), dtype=torch.bool)
        return scores.masked_fill(same, -math.inf)


    def sent_loss(cnn_code, rnn_code, labels, class_ids, batch_size, eps=1e-8):
        scores = _masked(cfg.TRAIN.SMOOTH.GAMMA3 * plain_cosines(cnn_code, rnn_code), class_ids)
        return [each.mean() for each in plain_cross_entropies(scores)]


    def words_loss(img_features, words_emb, labels, cap_lens, class_ids, batch_size):
        smooth, cap_lens = cfg.TRAIN.SMOOTH, cap_lens.data.tolist()
        att_maps = [
            func_attention(words_emb[i : i + 1, :, :length], img_features[i : i + 1], smooth.GAMMA1)[1]
            for i, length in enumerate(cap_lens)
        ]
        if labels is None:
            return None, None, att_maps
        scores = plain_local_scores(img_features, words_emb, cap_lens, smooth.GAMMA1, smooth.GAMMA2)
        scores = _masked(smooth.GAMMA3 * scores, class_ids)
        return *[each.mean() for each in plain_cross_entropies(scores)], att_maps
"""

# AttnGAN, ControlGAN and DM-GAN train their generator by both losses, MirrorGAN by captions alone.
_GENERATOR_LOSS = """

    def generator_loss(image_encoder, fake_imgs, words_embs, sent_emb, match_labels, cap_lens, class_ids):
        batch_size = len(fake_imgs)
        region_features, cnn_code = image_encoder(fake_imgs)
        w_loss0, w_loss1, _ = words_loss(region_features, words_embs, match_labels, cap_lens, class_ids, batch_size)
        w_loss = (w_loss0 + w_loss1) * cfg.TRAIN.SMOOTH.LAMBDA
        s_loss0, s_loss1 = sent_loss(cnn_code, sent_emb, match_labels, class_ids, batch_size)
        s_loss = (s_loss0 + s_loss1) * cfg.TRAIN.SMOOTH.LAMBDA
        return w_loss + s_loss, "w_loss: %.2f s_loss: %.2f " % (w_loss.item(), s_loss.item())
"""

_CORRELATION = """

    def word_level_correlation(img_features, words_emb, cap_lens, batch_size, class_ids):
        similar_list = []
        for i, words_num in enumerate(cap_lens.data.tolist()):
            word = words_emb[i, :, :words_num].unsqueeze(0)
            weiContext, attn = func_attention(word, img_features[i : i + 1], cfg.TRAIN.SMOOTH.GAMMA1)
            row_sim = cosine_similarity(word, weiContext).view(1, words_num)
            similar_list.append(torch.logsumexp(cfg.TRAIN.SMOOTH.GAMMA2 * row_sim, 1))
        return torch.cat(similar_list)
"""

_PRETRAIN = """
    from miscc.losses import sent_loss, words_loss


    def train(words_features, words_emb, sent_code, sent_emb, labels, cap_lens, class_ids):
        batch_size = len(labels)
        w_loss0, w_loss1, attn_maps = words_loss(words_features, words_emb, labels, cap_lens, class_ids, batch_size)
        s_loss0, s_loss1 = sent_loss(sent_code, sent_emb, labels, class_ids, batch_size)
        return w_loss0 + w_loss1 + s_loss0 + s_loss1, attn_maps
"""

_TRAINER = """
    from miscc.losses import words_loss


    def save_img_results(region_features, words_embs, cap_lens):
        _, _, att_maps = words_loss(
            region_features.detach(), words_embs.detach(), None, cap_lens, None, len(words_embs)
        )
        return att_maps
"""


def _gan(root: str, config: str, attention: str, *more: str) -> dict[str, str]:
    return {
        f"{root}{config.replace('.', '/')}.py": _CONFIG,
        f"{root}{config.split('.')[0]}/__init__.py": "",
        f"{root}{attention}.py": _ATTENTION,
        f"{root}miscc/__init__.py": "",
        f"{root}miscc/losses.py": _LOSSES.format(config=config, attention=attention) + "".join(more),
        f"{root}pretrain_DAMSM.py": _PRETRAIN,
        f"{root}trainer.py": _TRAINER,
    }


GANS = {
    "AttnGAN": _gan("code/", "miscc.config", "GlobalAttention", _GENERATOR_LOSS),
    "ControlGAN": _gan("code/", "miscc.config", "attention", _GENERATOR_LOSS, _CORRELATION),
    "DM-GAN": _gan("code/", "miscc.config", "GlobalAttention", _GENERATOR_LOSS),
    "MirrorGAN": _gan("", "cfg.config", "GLAttention"),
}

SCAN = {
    "model.py": """
        import torch
        from dropin_checks import plain_hinge


        def func_attention(query, context, opt, smooth, eps=1e-8):
            affinity = torch.nn.functional.leaky_relu(context @ query.transpose(1, 2), 0.1)
            affinity = affinity / (affinity.norm(dim=2, keepdim=True) + eps)
            attnT = torch.softmax(smooth * affinity, dim=1)
            return attnT.transpose(1, 2) @ context, attnT


        def xattn_score_t2i(images, captions, cap_lens, opt):
            columns = []
            for caption, length in zip(captions, cap_lens):
                words = caption[:length].expand(len(images), -1, -1)
                contexts, _ = func_attention(words, images, opt, smooth=opt.lambda_softmax)
                row_sim = torch.cosine_similarity(words, contexts, dim=2)
                columns.append(torch.logsumexp(opt.lambda_lse * row_sim, 1) / opt.lambda_lse)
            return torch.stack(columns, 1)


        def xattn_score_i2t(images, captions, cap_lens, opt):
            columns = []
            for caption, length in zip(captions, cap_lens):
                words = caption[:length].expand(len(images), -1, -1)
                contexts, _ = func_attention(images, words, opt, smooth=opt.lambda_softmax)
                row_sim = torch.cosine_similarity(images, contexts, dim=2)
                columns.append(torch.logsumexp(opt.lambda_lse * row_sim, 1) / opt.lambda_lse)
            return torch.stack(columns, 1)


        class ContrastiveLoss(torch.nn.Module):
            def __init__(self, opt, margin=0, max_violation=False):
                super(ContrastiveLoss, self).__init__()
                self.opt, self.margin, self.max_violation = opt, margin, max_violation

            def forward(self, im, s, s_l):
                scores = {"t2i": xattn_score_t2i, "i2t": xattn_score_i2t}[self.opt.cross_attn](im, s, s_l, self.opt)
                return plain_hinge(scores, self.margin, self.max_violation)


        class SCAN(object):
            def __init__(self, opt):
                self.criterion = ContrastiveLoss(opt=opt, margin=opt.margin, max_violation=opt.max_violation)

            def forward_loss(self, img_emb, cap_emb, cap_len):
                return self.criterion(img_emb, cap_emb, cap_len)
    """,
    "evaluation.py": """
        from model import SCAN, xattn_score_t2i, xattn_score_i2t


        def shard_xattn_t2i(images, captions, caplens, opt):
            return xattn_score_t2i(images, captions, caplens, opt)


        def shard_xattn_i2t(images, captions, caplens, opt):
            return xattn_score_i2t(images, captions, caplens, opt)
    """,
}

VSEPP = {
    "model.py": """
        import torch
        from dropin_checks import plain_hinge


        def cosine_sim(im, s):
            return im.mm(s.t())


        def order_sim(im, s):
            return -(s.unsqueeze(0) - im.unsqueeze(1)).clamp(min=0).pow(2).sum(2).sqrt()


        class ContrastiveLoss(torch.nn.Module):
            def __init__(self, margin=0, measure=False, max_violation=False):
                super(ContrastiveLoss, self).__init__()
                self.margin, self.max_violation = margin, max_violation
                self.sim = order_sim if measure == "order" else cosine_sim

            def forward(self, im, s):
                return plain_hinge(self.sim(im, s), self.margin, self.max_violation)


        class VSE(object):
            def __init__(self, opt):
                self.criterion = ContrastiveLoss(
                    margin=opt.margin, measure=opt.measure, max_violation=opt.max_violation
                )

            def forward_loss(self, img_emb, cap_emb):
                return self.criterion(img_emb, cap_emb)
    """,
    "evaluation.py": """
        from model import VSE, order_sim


        def i2t(images, captions):
            return order_sim(images, captions)
    """,
}

VILMEDIC = {
    "vilmedic/__init__.py": "",
    "vilmedic/blocks/__init__.py": "",
    "vilmedic/blocks/losses/__init__.py": """
        from .selfsup.ConVIRTLoss import ConVIRTLoss
        from .selfsup.GLoRIALoss import GLoRIALoss, gloria_attention_fn, cosine_similarity
    """,
    "vilmedic/blocks/losses/selfsup/__init__.py": "",
    "vilmedic/blocks/losses/selfsup/ConVIRTLoss.py": """
        import torch
        from dropin_checks import plain_cosines, plain_cross_entropies


        class ConVIRTLoss(torch.nn.Module):
            def __init__(self, tau, lambda_, **kwargs):
                super().__init__()
                self.tau, self.lambda_ = tau, lambda_

            def forward(self, linguistic, visual):
                loss_v, loss_l = plain_cross_entropies(plain_cosines(visual, linguistic) / self.tau)
                return (self.lambda_ * loss_v + (1 - self.lambda_) * loss_l).mean(), loss_l, loss_v
    """,
    "vilmedic/blocks/losses/selfsup/GLoRIALoss.py": """
        import torch
        from dropin_checks import plain_attention, plain_cosines, plain_cross_entropies, plain_local_scores


        def gloria_attention_fn(query, context, temp1):
            pairs = zip(query, context.flatten(2), strict=True)
            each = [torch.stack(made) for made in zip(*[plain_attention(w, v, temp1) for w, v in pairs], strict=True)]
            return each[0], each[1].unflatten(2, context.shape[2:])


        def cosine_similarity(x1, x2, dim=1, eps=1e-8):
            return torch.cosine_similarity(x1, x2, dim, eps).squeeze()


        class GLoRIALoss(torch.nn.Module):
            def __init__(self, local_loss_weight=1.0, global_loss_weight=1.0, temp1=4.0, temp2=5.0, temp3=10.0):
                super(GLoRIALoss, self).__init__()
                self.weights, self.temps = (local_loss_weight, global_loss_weight), (temp1, temp2, temp3)

            def forward(self, global_features, local_features, word_embeddings, sent_embeddings, sents):
                cap_lens = [len([w for w in sent if not w.startswith("[")]) + 1 for sent in sents]
                temp1, temp2, temp3 = self.temps
                scores = (
                    plain_local_scores(local_features, word_embeddings, cap_lens, temp1, temp2),
                    plain_cosines(global_features, sent_embeddings),
                )
                losses = [sum(each.mean() for each in plain_cross_entropies(temp3 * s)) for s in scores]
                attn_maps = [
                    gloria_attention_fn(word_embeddings[i : i + 1, :, :n], local_features[i : i + 1], temp1)[1]
                    for i, n in enumerate(cap_lens)
                ]
                return sum(w * each for w, each in zip(self.weights, losses)), attn_maps
    """,
    "vilmedic/models/__init__.py": "",
    "vilmedic/models/selfsup/__init__.py": "",
    "vilmedic/models/selfsup/GLoRIA.py": """
        from vilmedic.blocks.losses import GLoRIALoss, gloria_attention_fn, cosine_similarity


        class GLoRIA:
            def __init__(self, loss):
                self.loss_fn = GLoRIALoss(**loss)
    """,
    "vilmedic/models/selfsup/conVIRT.py": """
        from vilmedic.blocks.losses import ConVIRTLoss


        class ConVIRT:
            def __init__(self, loss):
                self.loss_fn = eval(loss.pop("proto"))(**loss)
    """,
}


def lay_out(folder: Path, files: dict[str, str], recipes: dict[str, str] | None = None) -> None:
    """Write the files, with a recipe at the end of those that one is for."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text) + (recipes or {}).get(name, ""))
    assert {*(recipes or {})} <= {*files}


@contextmanager
def first_on_the_path(folder: Path) -> Iterator[None]:
    """Import from the folder within, whatever else has such names, as Python does where a script of it is run."""
    own = {path.stem for path in folder.iterdir()}

    def named() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in own]

    others = {name: sys.modules.pop(name) for name in named()}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in named():
            del sys.modules[name]
        sys.modules.update(others)
