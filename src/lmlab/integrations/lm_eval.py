from lm_eval.api.model import LM
from lmlab.analyses.likelihood import Request, log_likelihoods
class SubjectLM(LM):
    def __init__(self, subject, batch=None):
        super().__init__(); self.subject, self.batch = subject, batch
    def loglikelihood(self, requests):
        asked = [Request(*r.args, where=f"{r.task_name} {r.doc_id}") for r in requests]
        found = log_likelihoods(self.subject, asked, greedy=True, batch=self.batch)
        g = found.greedy_N
        return list(zip(found.nats_N.tolist(), g.tolist()))
    def loglikelihood_rolling(self, requests): raise NotImplementedError
    def generate_until(self, requests): raise NotImplementedError
