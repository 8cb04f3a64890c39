import torch
from linear_video import LinearVideo, make_condition, make_noise

from harness.models.condition import Condition
from harness.rollout.guided import guided_velocity, with_unconditional


def test_one_call_of_twice_the_batch_equals_two_calls():
    model, x_t = LinearVideo(), make_noise()
    condition = Condition(text=make_condition().text, unconditional_text=torch.full((1, 3, 2), 0.3))
    t = torch.tensor([100.0, 900.0])
    both = with_unconditional(condition, 2.5)
    guided = guided_velocity(model, x_t, t, both, 2.5)
    assert [call["batch"] for call in model.calls] == [4]
    cond = model(x_t, t, condition.text)[0]
    uncond = model(x_t, t, condition.unconditional().text)[0]
    assert torch.allclose(guided, uncond + 2.5 * (cond - uncond), atol=1e-6)
    assert not torch.allclose(guided, cond, atol=1e-2)


def test_scale_one_costs_nothing():
    model, x_t, condition = LinearVideo(), make_noise(), make_condition()
    t = torch.tensor([100.0, 900.0])
    velocity = guided_velocity(model, x_t, t, with_unconditional(condition, 1.0), 1.0)
    assert [call["batch"] for call in model.calls] == [2]
    assert torch.equal(velocity, model(x_t, t, condition.text)[0])
