"""Evaluation of a model that chats: instructions followed, arithmetic, replies that end and do not loop, held-out loss."""
