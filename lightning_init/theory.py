r"""Mean field theory: what a wide random network does to variances, correlations and gradients, layer after layer.

A layer is $x^{l+1} = W f(x^l) + b$ with $W_{ij} \sim N(0, \sigma_w^2 / fan\_in)$ and $b_i \sim N(0, \sigma_b^2)$; q is
the variance of its pre-activations x, c the correlation of two inputs' pre-activations. In the limit of wide layers

- $q^{l+1} = \sigma_w^2 E[f(\sqrt{q^l} z)^2] + \sigma_b^2$: `variance_map`;
- $c^{l+1} = (\sigma_w^2 E[f(u) f(u')] + \sigma_b^2) / q^{l+1}$, u and u' ~ N(0, q) of correlation c: `correlation_map`;
- the squared gradient grows by $\chi = \sigma_w^2 E[f'(\sqrt{q} z)^2]$ per layer towards the input: `chi`.

Poole et al. 2016 (Exponential expressivity in deep neural networks through transient chaos), Schoenholz et al. 2017
(Deep information propagation), sections 2, 3 and 5. Everything is float64, by piecewise quadrature.
"""

from lightning_init.mean_field.criticality import CriticalPoint, critical_point, edge_of_chaos
from lightning_init.mean_field.fixed_points import DepthScales, FixedPoint, depth_scales, variance_fixed_points
from lightning_init.mean_field.maps import chi, correlation_map, correlation_slope, variance_map, variance_slope
from lightning_init.mean_field.network import Layer, Prediction, predict

__all__ = [
    "CriticalPoint",
    "DepthScales",
    "FixedPoint",
    "Layer",
    "Prediction",
    "chi",
    "correlation_map",
    "correlation_slope",
    "critical_point",
    "depth_scales",
    "edge_of_chaos",
    "predict",
    "variance_fixed_points",
    "variance_map",
    "variance_slope",
]
