# The 2x schedule with the two learning-rate steps of the WS authors' fork: late and close together.
_base_ = './mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py'
param_scheduler = _base_.param_scheduler
param_scheduler[1]['milestones'] = [20, 23]
