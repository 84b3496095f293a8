"""Texts in the layouts of public data sets: a report of MIMIC-CXR, a table of CheXpert Plus."""

MIMIC_REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation, pleural effusion or pneumothorax.  A 2.5 cm
 opacity is seen.

 IMPRESSION:

 1. No acute cardiopulmonary process.
 2. Clear lungs.
"""

CHEXPERT_PLUS = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
    "section_findings,section_impression,split\n"
    "train/patient00001/study1/view1_frontal.jpg,x.dcm,Frontal,AP,patient00001,1,"
    '"FINDINGS: Low volumes.\nIMPRESSION: Atelectasis.","Low\nvolumes.",Atelectasis.,train\n'
    "valid/patient00030/study1/view1_frontal.jpg,y.dcm,Frontal,AP,patient00030,1,Edema.,,,valid\n"
    "train/patient00001/study1/view1_lateral.jpg,z.dcm,Lateral,,patient00001,1,Same.,,Same.,train\n"
)
